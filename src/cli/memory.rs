//! The process's memory: its peak, its bound, and what is said when it runs out. Beside `model/map.rs` the one file
//! with `unsafe` in it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest resident size so far, in bytes, where the system tells it in `/proc` (Linux).
pub fn peak() -> Option<u64> {
    kib_in("/proc/self/status", "VmHWM:")
}

/// Lets this process use no more than the memory that is there, where the system tells how much that is (Linux).
pub fn bound() {
    let there = kib_in("/proc/meminfo", "MemTotal:");
    let given = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|max| max.trim().parse().ok());
    if let Some(most) = there.into_iter().chain(given).min() {
        MOST.store(usize::try_from(most).unwrap_or(usize::MAX), Ordering::Relaxed);
    }
}

/// The number behind this word in a file of lines like `word: 12 kB`, in bytes.
fn kib_in(file: &str, word: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(word))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Allocations of so many bytes count.
const LARGE: usize = 1 << 20;

/// Bytes in large allocations, and how many there may be.
static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The system's allocator, and an exit as after every other error where it has nothing left to give. A model can name
/// sizes that no machine has; Rust would abort, and the system might end some other process.
struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promises are those of the system's allocator.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as above.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        give_back(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        give_back(layout.size());
        // SAFETY: as above.
        given(unsafe { System.realloc(p, layout, size) }, size)
    }
}

fn take(size: usize) {
    if size >= LARGE {
        let used = USED.fetch_add(size, Ordering::Relaxed).saturating_add(size);
        if used > MOST.load(Ordering::Relaxed) {
            out_of_memory(size);
        }
    }
}

fn give_back(size: usize) {
    if size >= LARGE {
        USED.fetch_sub(size, Ordering::Relaxed);
    }
}

fn given(p: *mut u8, size: usize) -> *mut u8 {
    if p.is_null() {
        out_of_memory(size);
    }
    p
}

/// Says it without asking for memory, and exits.
#[cold]
fn out_of_memory(size: usize) -> ! {
    say_out_of_memory(size);
    qdq::model::remove_unfinished();
    std::process::exit(2)
}

#[cfg(unix)]
fn say_out_of_memory(size: usize) {
    use std::fs::File;
    use std::io::Write;
    use std::mem::ManuallyDrop;
    use std::os::fd::FromRawFd;
    // SAFETY: file 2 is stderr, and is not closed here. The handle of the library may be locked by this thread.
    let mut err = ManuallyDrop::new(unsafe { File::from_raw_fd(2) });
    let mut text = [0u8; 256];
    let mut rest = &mut text[..];
    let _ = write!(
        rest,
        "error: out of memory: {size} bytes more were asked for\n\
         hint: `qdq inspect` shows what is in a model without running it\n"
    );
    let left = rest.len();
    let _ = err.write_all(&text[..text.len() - left]);
}

#[cfg(not(unix))]
fn say_out_of_memory(_: usize) {}
