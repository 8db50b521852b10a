//! Files that have no name until they are whole.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

/// The folder that a file lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where files are, or were, in the making. Files are made and named under this lock, so that none comes into being, or gets
/// its name, while they are removed.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that vanishes unless it gets a name.
pub(super) fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut unfinished = unfinished();
    let file = tempfile::Builder::new().prefix(".qdq-").suffix(".tmp").tempfile_in(folder)?;
    unfinished.retain(|path| path.exists());
    unfinished.push(file.path().to_owned());
    Ok(file)
}

/// Removes what is being written, for a process that is about to end, as by Ctrl-C. Threads that are about to begin a file, or
/// to give one its name, wait from now on for the end.
pub fn remove_unfinished() {
    let unfinished = unfinished();
    for path in unfinished.iter() {
        let _ = std::fs::remove_file(path);
    }
    std::mem::forget(unfinished);
}

/// What comes and goes with a file that gets its name.
#[derive(Clone, Copy, Default)]
pub(super) struct Along<'a> {
    /// A file that was of no use without it.
    pub needed: Option<&'a Path>,
    /// Files that are of no use any more.
    pub obsolete: &'a [PathBuf],
}

/// Gives a complete file its name, and the permissions of the one that it replaces. Whoever interrupts that finds everything as
/// it was, or as it is to be.
pub(super) fn name(file: NamedTempFile, path: &Path, along: Along<'_>) -> std::io::Result<()> {
    let mut unfinished = persist(file, path)?;
    unfinished.retain(|p| Some(p.as_path()) != along.needed);
    for path in along.obsolete {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// As [`name`], for a file that is of no use until another that needs it has its name: until then it counts as unfinished.
pub(super) fn name_needed(file: NamedTempFile, path: &Path) -> std::io::Result<()> {
    persist(file, path)?.push(path.to_owned());
    Ok(())
}

fn persist(file: NamedTempFile, path: &Path) -> std::io::Result<MutexGuard<'static, Vec<PathBuf>>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0o644, |m| m.permissions().mode());
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    let unfinished = unfinished();
    file.persist(path).map_err(|e| e.error)?;
    Ok(unfinished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_needs_is_unfinished_until_that_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let [data, model, old] = ["data", "model", "old"].map(|name| folder.path().join(name));
        std::fs::write(&old, b"old").unwrap();
        name_needed(temporary(folder.path()).unwrap(), &data).unwrap();
        assert!(unfinished().contains(&data));
        let along = Along { needed: Some(&data), obsolete: std::slice::from_ref(&old) };
        name(temporary(folder.path()).unwrap(), &model, along).unwrap();
        assert!(!unfinished().contains(&data));
        assert!(data.exists() && model.exists() && !old.exists());
    }
}
