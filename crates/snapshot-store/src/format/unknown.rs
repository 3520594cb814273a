//! Fields of a stored object that this version does not know.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Fields that a later version wrote and this one does not know. They are kept and written back unchanged, so that a
/// cluster of mixed versions loses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Unknown(Map<String, Value>);
