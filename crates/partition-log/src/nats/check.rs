//! What a deployment has and lacks, in sentences.

/// How one finding counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingLevel {
    /// As it should be.
    Good,
    /// Cannot be asked for over the protocol; the text says what to look at.
    Unknown,
    /// The deployment works, and something promised is missing.
    Lacking,
    /// Logs cannot be kept here, or not safely.
    Broken,
}

/// One thing found out about a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it counts.
    pub level: FindingLevel,
    /// What was found, and what to do about it.
    pub text: String,
}
