//! Certificates and tokens, made when a test runs.

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use snapshot_store::Entropy;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};
use tidemark::{
    cluster::Credentials,
    wire_security::{AccessRole, ClientSecurity, CredentialFiles, Token},
};

/// A certificate authority, and the tokens it hands out; everything lies in files of one folder.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    accepted: String,
}

impl Authority {
    /// Makes one that keeps its files in `folder`, which is created.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, "a CA of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(folder.join("ca.pem"), issuer.pem())?;
        let authority = Authority {
            folder: folder.to_owned(),
            issuer,
            accepted: String::new(),
        };
        authority.certify("node")?;
        Ok(authority)
    }

    /// Returns the file `name` of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes `<name>.pem` and `<name>.key`, for 127.0.0.1, as server and as client.
    fn certify(&self, name: &str) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "node.test".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?;
        std::fs::write(self.file(&format!("{name}.pem")), certificate.pem())?;
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }

    /// Draws a token and writes it to `<name>.token`; servers accept it until `expires`, if they accept it at all.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn token(&mut self, name: &str, role: AccessRole, expires: Option<&str>) -> anyhow::Result<()> {
        let token = Token::draw(&Entropy::from_os());
        std::fs::write(self.file(&format!("{name}.token")), token.expose())?;
        writeln!(
            self.accepted,
            "[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nblake3 = \"{}\"",
            token.hash()
        )?;
        if let Some(expires) = expires {
            writeln!(self.accepted, "expires = \"{expires}\"")?;
        }
        std::fs::write(self.file("accepted.toml"), &self.accepted)?;
        Ok(())
    }

    /// Writes `<name>.token` with a token that no server accepts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn stray_token(&self, name: &str) -> anyhow::Result<()> {
        let token = Token::draw(&Entropy::from_os());
        Ok(std::fs::write(
            self.file(&format!("{name}.token")),
            token.expose(),
        )?)
    }

    /// Returns what a cluster needs; its workers have the token `worker`, its admin the token `admin`.
    pub fn of_cluster(&self) -> Credentials {
        Credentials {
            ca: self.file("ca.pem"),
            cert: self.file("node.pem"),
            key: self.file("node.key"),
            accepted_tokens: self.file("accepted.toml"),
            worker_token: self.file("worker.token"),
            admin_token: self.file("admin.token"),
        }
    }

    /// Returns the files of a client that has a certificate and shows the token `token`, if any.
    pub fn client_files(&self, token: Option<&str>) -> CredentialFiles {
        CredentialFiles {
            ca: Some(self.file("ca.pem")),
            cert: Some(self.file("node.pem")),
            key: Some(self.file("node.key")),
            token: token.map(|name| self.file(&format!("{name}.token"))),
            ..CredentialFiles::default()
        }
    }

    /// Returns the credentials of such a client.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn client(&self, token: Option<&str>) -> anyhow::Result<ClientSecurity> {
        read(&self.client_files(token))
    }

    /// Returns the text of every secret in the folder: private keys and tokens.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn secrets(&self) -> anyhow::Result<Vec<String>> {
        let mut secrets = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("token") => secrets.push(std::fs::read_to_string(&path)?),
                // The first line of the key itself.
                Some("key") => {
                    let text = std::fs::read_to_string(&path)?;
                    let line = text.lines().nth(1).context("a key has lines")?;
                    secrets.push(line.to_owned());
                }
                _ => {}
            }
        }
        Ok(secrets)
    }
}

/// Reads the credentials of a client.
///
/// # Errors
/// With all that is wrong with them.
fn read(files: &CredentialFiles) -> anyhow::Result<ClientSecurity> {
    files.client().map_err(|faults| anyhow::anyhow!("{faults:?}"))
}
