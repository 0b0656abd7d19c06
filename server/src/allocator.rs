//! What the allocator holds on to after a load or a rush, until the next one.

/// Gives the kernel back what has been freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub(crate) fn give_back() {
    // SAFETY: it takes the allocator's own locks and touches nothing that is in use; any thread may call it at any time.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Other allocators have their own ways.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
