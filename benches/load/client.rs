//! Asks a server as fast as it answers, or at a constant rate.
//!
//! One thread, raw sockets that are kept alive, requests put together beforehand. Every answer is counted. At a constant
//! rate a request's time begins when it was due, whether or not a connection was free then, so that a server that stops
//! for a moment is charged for everything that waited. Knows as much HTTP/1.1 as it takes to find the end of an answer.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// The largest answer: some thousand rows.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The most requests that wait for a connection at a constant rate; further ones are not sent.
const BACKLOG_MAX: usize = 100_000;
/// How many requests that are due are sent, and how many answers read, before the other is looked after: at a rate that takes
/// this thread all its time, an answer would wait here for what is sent, and a server be charged for it.
const AT_ONCE_MAX: u64 = 32;
/// How long requests that were due in time may still wait for a connection afterwards.
const LATE: Duration = Duration::from_secs(1);
/// How long the requests at hand may take once no more are due.
const DRAIN: Duration = Duration::from_secs(20);

/// What is asked, and how often.
pub struct Plan<'a> {
    pub address: SocketAddr,
    /// Whole requests, sent one after another and again from the beginning.
    pub requests: &'a [Vec<u8>],
    pub connections: usize,
    /// Requests a second; without it each connection asks again as soon as it is answered.
    pub rate_per_s: Option<f64>,
    /// Whether this thread has a processor of its own, and so need not sleep until a request is due or an answer comes: an idle
    /// virtual processor takes 40 µs to wake, and now and then some milliseconds, which a server would be charged for. Who
    /// sends to one has some 10 µs of processor time to pay.
    pub is_alone: bool,
    /// What is asked before anything is counted.
    pub warm: Duration,
    pub time: Duration,
}

/// One answer.
pub struct Sample {
    /// When the request was due, since the counting began.
    pub due: Duration,
    /// How long the request waited for a connection.
    pub waited: Duration,
    /// From when the request was due until its last byte was there.
    pub took: Duration,
    pub status: u16,
}

/// What came of a plan.
pub struct Outcome {
    pub began: Instant,
    /// Of the requests that were due while it was counted, and of the answers that came then if each connection asks by itself.
    pub samples: Vec<Sample>,
    /// Answers with 200 that came while it was counted, whenever they were due.
    pub good: usize,
    /// Due and never sent.
    pub unsent: usize,
    /// Sent and never answered.
    pub lost: usize,
}

struct Connection {
    stream: TcpStream,
    /// The request that is being answered: which, how much of it is sent, when it was due and sent.
    at_hand: Option<AtHand>,
    answer: Vec<u8>,
    filled: usize,
}

struct AtHand {
    request: usize,
    sent_bytes: usize,
    due: Instant,
    sent: Instant,
}

struct Loop<'a> {
    plan: &'a Plan<'a>,
    epoll: rustix::fd::OwnedFd,
    connections: Vec<Connection>,
    /// The one that was used last is used next, as in the pools of clients: a server sees no more connections than are needed.
    idle: Vec<usize>,
    /// When the requests that wait for a connection were due.
    backlog: VecDeque<Instant>,
    next_request: usize,
    outcome: Outcome,
    ends: Instant,
}

/// Carries `plan` out; `mark` is called when the counting begins and when it ends.
pub fn run(plan: &Plan<'_>, mut mark: impl FnMut()) -> Outcome {
    // Else the kernel may wake this thread 50 µs after a request is due.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let connection = |index| {
        let stream = connect(&epoll, plan.address, index);
        Connection { stream, at_hand: None, answer: vec![0; 64 << 10], filled: 0 }
    };
    let connections = (0..plan.connections).map(connection).collect();
    // Not before: thousands of connections may take a second to be made.
    let began = Instant::now() + plan.warm;
    let mut this = Loop {
        plan,
        epoll,
        connections,
        idle: (0..plan.connections).collect(),
        backlog: VecDeque::new(),
        next_request: 0,
        outcome: Outcome { began, samples: Vec::with_capacity(1 << 20), good: 0, unsent: 0, lost: 0 },
        ends: began + plan.time,
    };
    this.run(&mut mark);
    this.outcome
}

/// A connection whose events carry its `index`.
fn connect(epoll: &rustix::fd::OwnedFd, address: SocketAddr, index: usize) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
    epoll::add(epoll, &stream, EventData::new_u64(index as u64), flags).unwrap();
    stream
}

impl Loop<'_> {
    fn run(&mut self, mark: &mut impl FnMut()) {
        let first = Instant::now();
        let mut marks = 0;
        let mut due_count = 0_u64;
        let mut events: Vec<Event> = Vec::with_capacity(AT_ONCE_MAX as usize);
        let gap = self.plan.rate_per_s.map(|rate| 1.0 / rate);
        loop {
            let now = Instant::now();
            if marks == 0 && now >= self.outcome.began {
                mark();
                marks = 1;
            }
            if now >= self.ends {
                if marks == 1 {
                    mark();
                    marks = 2;
                }
                if now >= self.ends + LATE {
                    self.outcome.unsent += self.backlog.len();
                    self.backlog.clear();
                }
                let at_hand = self.connections.iter().filter(|connection| connection.at_hand.is_some()).count();
                if at_hand == 0 && self.backlog.is_empty() || now >= self.ends + DRAIN {
                    self.outcome.lost += at_hand;
                    return;
                }
            }
            let mut wake = if marks == 0 { self.outcome.began } else { self.ends };
            if now >= self.ends {
                wake = now + Duration::from_millis(50);
            } else if let Some(gap) = gap {
                let at_once_max = due_count + AT_ONCE_MAX;
                loop {
                    let due = first + Duration::from_secs_f64(due_count as f64 * gap);
                    if due > now || due >= self.ends || due_count == at_once_max {
                        wake = wake.min(due);
                        break;
                    }
                    due_count += 1;
                    match self.idle.pop() {
                        Some(index) => self.send(index, due),
                        None if self.backlog.len() < BACKLOG_MAX => self.backlog.push_back(due),
                        None => self.outcome.unsent += 1,
                    }
                }
            } else {
                while let Some(index) = self.idle.pop() {
                    self.send(index, Instant::now());
                }
            }
            let wait = if self.plan.is_alone { Duration::ZERO } else { wake.saturating_duration_since(Instant::now()) };
            let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("cannot wait for answers: {error}"),
            }
            for event in &events {
                let (flags, data) = (event.flags, event.data);
                let index = data.u64() as usize;
                if flags.contains(EventFlags::OUT) {
                    self.write(index);
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.read(index);
                }
            }
        }
    }

    fn send(&mut self, index: usize, due: Instant) {
        let request = self.next_request;
        self.next_request = (request + 1) % self.plan.requests.len();
        self.connections[index].at_hand = Some(AtHand { request, sent_bytes: 0, due, sent: Instant::now() });
        self.write(index);
    }

    fn write(&mut self, index: usize) {
        let Connection { stream, at_hand: Some(at_hand), .. } = &mut self.connections[index] else { return };
        let request = &self.plan.requests[at_hand.request];
        while at_hand.sent_bytes < request.len() {
            match stream.write(&request[at_hand.sent_bytes..]) {
                Ok(count) => at_hand.sent_bytes += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.lose(index),
            }
        }
    }

    fn read(&mut self, index: usize) {
        loop {
            let connection = &mut self.connections[index];
            if connection.filled == connection.answer.len() {
                assert!(connection.filled < ANSWER_BYTES_MAX, "an answer has more than {ANSWER_BYTES_MAX} bytes");
                connection.answer.resize(connection.filled * 2, 0);
            }
            let room = &mut connection.answer[connection.filled..];
            let room_bytes = room.len();
            match connection.stream.read(room) {
                Ok(0) => return self.lose(index),
                Ok(count) => {
                    connection.filled += count;
                    if let Some((status, length)) = parse(&connection.answer[..connection.filled]) {
                        assert_eq!(length, connection.filled, "one answer came to one request");
                        self.answered(index, status);
                    }
                    // Less than there was room for: the socket is empty, and the next byte is an event.
                    if count < room_bytes {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.lose(index),
            }
        }
    }

    fn answered(&mut self, index: usize, status: u16) {
        let now = Instant::now();
        let connection = &mut self.connections[index];
        connection.filled = 0;
        let at_hand = connection.at_hand.take().expect("an answer comes only to a request");
        let in_time = now >= self.outcome.began && now < self.ends;
        self.outcome.good += usize::from(in_time && status == 200);
        let counted = if self.plan.rate_per_s.is_some() { at_hand.due } else { now };
        if counted >= self.outcome.began && counted < self.ends {
            self.outcome.samples.push(Sample {
                due: at_hand.due.saturating_duration_since(self.outcome.began),
                waited: at_hand.sent - at_hand.due,
                took: now - at_hand.due,
                status,
            });
        }
        self.free(index, now);
    }

    fn free(&mut self, index: usize, now: Instant) {
        match self.backlog.pop_front() {
            Some(due) => self.send(index, due),
            None if self.plan.rate_per_s.is_none() && now < self.ends => self.send(index, now),
            None => self.idle.push(index),
        }
    }

    /// The server closed a connection.
    fn lose(&mut self, index: usize) {
        if self.connections[index].at_hand.take().is_some() {
            self.outcome.lost += 1;
            assert!(self.outcome.lost < 10_000, "the server at {} closes every connection", self.plan.address);
        } else {
            // Idle, and taken out where it is not to be asked.
            self.idle.retain(|idle| *idle != index);
        }
        let stream = connect(&self.epoll, self.plan.address, index);
        let connection = &mut self.connections[index];
        connection.stream = stream;
        connection.filled = 0;
        self.free(index, Instant::now());
    }
}

/// The status of a whole answer, and its length with its head; none where a part of it is yet to come.
fn parse(answer: &[u8]) -> Option<(u16, usize)> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let mut lines = answer[..head].split(|byte| *byte == b'\n');
    let status = lines.next()?.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no HTTP/1.1: {}", String::from_utf8_lossy(&answer[..head])));
    let length = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:").then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
    });
    let length: usize =
        length.unwrap_or_else(|| panic!("no Content-Length: {}", String::from_utf8_lossy(&answer[..head])));
    (answer.len() >= head + length).then_some((status, head + length))
}

/// One answer to one request, with its head.
pub fn ask(address: SocketAddr, request: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DRAIN)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 64 << 10];
    loop {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the server at {address} closed the connection: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..count]);
        if let Some((status, _)) = parse(&answer) {
            return (status, answer);
        }
    }
}

/// The part of an answer behind its head.
pub fn body(answer: &[u8]) -> &[u8] {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole answer has a head");
    &answer[head + 4..]
}
