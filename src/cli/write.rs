//! The options that say how models are written.

use clap::Args;
use qdq::model::{ExternalData, WriteOptions};

/// How the model is written.
#[derive(Args)]
#[command(next_help_heading = "Writing")]
pub struct WriteArgs {
    /// Where the data of large tensors go; a file beside the model is named after it and after the data
    #[arg(long, value_name = "WHERE", default_value = "auto")]
    external_data: ExternalData,

    /// Tensors smaller than this stay in the model file
    #[arg(long, value_name = "BYTES", default_value_t = WriteOptions::default().threshold)]
    external_threshold: usize,
}

impl WriteArgs {
    /// As the library takes them.
    pub fn options(&self) -> WriteOptions {
        WriteOptions { external: self.external_data, threshold: self.external_threshold }
    }
}
