//! Keeps a process small that works seldom and waits for long.
//!
//! The program is large, and what a fetch or a publication runs through of it once stays mapped afterwards: two thirds of
//! what such a process has resident. [`give_back`] lets go of that; what is needed again comes from the page cache.
//! Only code and constants go, which no process ever writes to. Does not know what the process does.

/// Lets go of the pages of the program itself. Does nothing where that is not possible.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn give_back() {
    use rustix::mm::{Advice, madvise};

    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, end) in constant(&maps, &program.to_string_lossy()) {
        // SAFETY: these are whole mappings of the program's file that are not written to, neither by this program nor by
        // its loader, whose relocations have mappings of their own. So every page is read from the file as it was.
        // That it fails means that nothing was let go of.
        let _ = unsafe { madvise(start as *mut _, end - start, Advice::LinuxDontNeed) };
    }
}

/// Elsewhere nothing is known to be worth it.
#[cfg(not(target_os = "linux"))]
pub fn give_back() {}

/// The ranges of addresses that hold the code and the constants of `program`: what may be executed, and the beginning of
/// the file. Other parts that look read-only were written to by the loader before.
#[cfg(target_os = "linux")]
fn constant(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let address = |text: &str| usize::from_str_radix(text, 16).ok();
    let range = |line: &str| {
        let mut fields = line.splitn(6, ' ');
        let (range, permissions, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let name = fields.nth(2)?.trim_start();
        let is_constant = permissions == "r-xp" || permissions == "r--p" && address(offset)? == 0;
        let (start, end) = range.split_once('-')?;
        (name == program && is_constant).then_some((address(start)?, address(end)?))
    };
    maps.lines().filter_map(range).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_wrote_to_is_kept() {
        let maps = "\
55a0-55b0 r--p 00000000 fe:00 5640017                    /usr/bin/mainstay
55b0-55d0 r-xp 00b7c000 fe:00 5640017                    /usr/bin/mainstay
55d0-55e0 r--p 0209c000 fe:00 5640017                    /usr/bin/mainstay
55e0-55f0 rw-p 021bb000 fe:00 5640017                    /usr/bin/mainstay
5600-5700 rw-p 00000000 00:00 0                          [heap]
7f00-7f10 r-xp 00026000 fe:00 123                        /usr/lib/x86_64-linux-gnu/libc.so.6
";
        assert_eq!(constant(maps, "/usr/bin/mainstay"), [(0x55a0, 0x55b0), (0x55b0, 0x55d0)]);
    }

    #[test]
    fn a_process_goes_on_after_it_gave_its_pages_back() {
        let resident_code = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(2).unwrap().parse::<u64>().unwrap()
        };
        let before = resident_code();
        give_back();
        let after = resident_code();
        assert!(after < before, "{after} pages of files are mapped, {before} were");
        assert_eq!(constant("", "/usr/bin/mainstay"), []);
    }
}
