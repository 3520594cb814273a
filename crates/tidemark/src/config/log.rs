//! Configuration of the log server.

use super::{AuthSection, Faults, Role, RoleConfig, TlsSection, wire};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `log.toml`: the server of the embedded log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Name of this node, unique in the cluster. Required. Since 0.1.
    pub node_id: String,
    /// Where workers and the admin reach the log. Default: "127.0.0.1:7300". Takes effect at start. Since 0.1.
    pub listen: String,
    /// Where only admins and `cluster init` reach it: trims and provisioning are accepted here and nowhere else.
    /// Keep it off networks that workers share with others. Default: "127.0.0.1:7301". Takes effect at start. Since 0.1.
    pub admin_listen: String,
    /// Where `/metrics`, `/livez` and `/readyz` are served. Default: "127.0.0.1:7302". Takes effect at start. Since 0.1.
    pub metrics_listen: String,
    /// Folder of the log on a local disk that this node alone uses. Required. Losing it loses every record that
    /// no snapshot covers. Since 0.1.
    pub data_dir: PathBuf,
    /// TLS.
    pub tls: TlsSection,
    /// Tokens.
    pub auth: AuthSection,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            node_id: "log-1".into(),
            listen: "127.0.0.1:7300".into(),
            admin_listen: "127.0.0.1:7301".into(),
            metrics_listen: "127.0.0.1:7302".into(),
            data_dir: "/var/lib/tidemark/log-1".into(),
            tls: TlsSection::default(),
            auth: AuthSection::default(),
        }
    }
}

impl RoleConfig for LogConfig {
    const ROLE: Role = Role::Log;
    const REQUIRED: &'static [&'static str] = &["node_id", "data_dir"];

    fn check(&self, faults: &mut Faults) {
        faults.node_id("node_id", &self.node_id);
        let listens = [
            ("listen", self.listen.as_str()),
            ("admin_listen", &self.admin_listen),
            ("metrics_listen", &self.metrics_listen),
        ];
        listens.iter().for_each(|(key, text)| faults.listen(key, text));
        faults.distinct_listens(&listens);
        wire::check(&self.tls, &self.auth, &listens[..2], &[], faults);
        faults.data_dir("data_dir", &self.data_dir.to_string_lossy());
    }
}
