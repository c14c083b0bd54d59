//! `drainscope cleanup`: removes the maps and programs that agents left pinned, when none of them runs any more. It never
//! ends an agent: it waits for its end, as the hook of an uninstall needs, or refuses.

use crate::kernel::{PinError, Pins};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a directory that an agent holds is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// Removes everything in the directory; what was done, for people. An agent that holds it is waited for.
pub async fn clean_up(directory: &Path, wait: Duration) -> Result<String, PinError> {
    let deadline = Instant::now() + wait;
    let mut told = false;
    while directory.is_dir() {
        match Pins::open(directory) {
            Ok(pins) => {
                let programs = pins.clean_up()?;
                return Ok(format!("removed {} ({programs} attached programs)\n", directory.display()));
            }
            Err(PinError::Busy(_)) if Instant::now() < deadline => {}
            Err(error) => return Err(error),
        }
        if !told {
            // A stderr that is gone cannot be told so.
            drop(writeln!(io::stderr(), "waiting for the agent that holds {}", directory.display()));
            told = true;
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(format!("nothing is left: {} does not exist\n", directory.display()))
}
