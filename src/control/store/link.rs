//! What both stores' clients have in common: which server is asked, as whom, and how much of an answer is read.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::super::client::tls;
use super::super::discovery::dns::Names;
use super::super::discovery::http::{Answer, Api};
use super::super::discovery::provider::Trouble;
use super::address::{Address, Kind};
use crate::http::grpc_web::{self, Decoder};
use crate::limits::{STORE_ANSWER_BYTES_MAX, TLS_FILE_BYTES_MAX};

/// The way to the servers of a store, one after another.
pub struct Link {
    /// Where the value is.
    pub address: Arc<Address>,
    names: Arc<Names>,
    at: usize,
    open: Option<Arc<Open>>,
}

/// A server, and who we are to it.
pub struct Open {
    /// The server.
    pub api: Api,
    /// Who we are; nothing of it is ever shown.
    pub login: Login,
}

/// Credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The name of a user of etcd's; empty for none.
    pub user: String,
    /// Its password, or Consul's token; empty for none.
    pub secret: String,
}

/// What the environment says: credentials, and files.
#[derive(Default)]
struct Access {
    login: Login,
    authorities: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    tls_name: Option<String>,
}

impl Link {
    /// To the first server.
    pub fn new(address: Arc<Address>, names: Arc<Names>) -> Self {
        Self { address, names, at: 0, open: None }
    }

    /// The server that is asked now.
    pub async fn open(&mut self) -> Result<Arc<Open>, Trouble> {
        if let Some(open) = &self.open {
            return Ok(open.clone());
        }
        let (kind, is_https) = (self.address.kind, self.address.is_https);
        let read = move || {
            let access = Access::read(kind, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
            let identity = access.identity.as_ref().map(|(chain, key)| (chain.as_slice(), key.as_slice()));
            let tls = if is_https { Some(tls(access.authorities.as_deref(), identity)?) } else { None };
            Ok::<_, String>((tls, access.tls_name, access.login))
        };
        // Files may hang.
        let read = tokio::task::spawn_blocking(read).await;
        let (tls, tls_name, login) =
            read.map_err(|_| Trouble::failed("the environment cannot be read"))?.map_err(Trouble::failed)?;
        let (host, port) = self.address.servers[self.at % self.address.servers.len()].clone();
        let api = Api { host, port, tls, tls_name, names: self.names.clone() };
        Ok(self.open.insert(Arc::new(Open { api, login })).clone())
    }

    /// The next server from now on; credentials are read again.
    pub fn lose(&mut self) {
        self.open = None;
        self.at += 1;
    }
}

impl Access {
    fn read(kind: Kind, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let [ca, cert, key] = match kind {
            Kind::Consul => ["CONSUL_CACERT", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY"],
            Kind::Etcd => ["ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"],
        };
        let file = |name: &str| variable(name).map(|path| read_file(name, &path)).transpose();
        let identity = match (file(cert)?, file(key)?) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert, key)),
            _ => return Err(format!("{cert} and {key} go together")),
        };
        let secret = |name: &str| match (variable(name), variable(&format!("{name}_FILE"))) {
            (Some(secret), _) => Ok(secret),
            (None, Some(path)) => {
                let bytes = read_file(&format!("{name}_FILE"), &path)?;
                String::from_utf8(bytes)
                    .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                    .map_err(|_| format!("{name}_FILE is not UTF-8"))
            }
            (None, None) => Ok(String::new()),
        };
        let login = match kind {
            Kind::Consul => Login { user: String::new(), secret: secret("CONSUL_HTTP_TOKEN")? },
            Kind::Etcd => {
                let user = variable("ETCDCTL_USER").unwrap_or_default();
                match user.split_once(':') {
                    Some((user, secret)) => Login { user: user.to_owned(), secret: secret.to_owned() },
                    None => Login { user, secret: secret("ETCDCTL_PASSWORD")? },
                }
            }
        };
        let tls_name = variable("CONSUL_TLS_SERVER_NAME").filter(|_| kind == Kind::Consul);
        Ok(Self { login, authorities: file(ca)?, identity, tls_name })
    }
}

fn read_file(name: &str, path: &str) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let read = || {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        file.take(TLS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > TLS_FILE_BYTES_MAX => {
            Err(format!("{name}: {path} is larger than {TLS_FILE_BYTES_MAX} bytes"))
        }
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(format!("{name}: {path}: {error}")),
    }
}

/// The whole body, which must come within `wait`; None where it is longer than any answer with a configuration.
pub async fn body(mut answer: Answer, wait: Duration) -> Result<Option<Vec<u8>>, Trouble> {
    let read = async {
        let mut all = Vec::new();
        while let Some(piece) = answer.piece().await? {
            if all.len() + piece.len() > STORE_ANSWER_BYTES_MAX {
                return Ok(None);
            }
            all.extend_from_slice(&piece);
        }
        Ok(Some(all))
    };
    timeout(wait, read).await.map_err(|_| Trouble::failed("the answer did not end in time"))?
}

/// What a text in base64 stands for.
pub fn decode(text: &str) -> Result<Vec<u8>, Trouble> {
    let (mut decoder, mut bytes) = (Decoder::default(), Vec::new());
    match decoder.decode(text.as_bytes(), &mut bytes) {
        Ok(()) if decoder.is_whole() => Ok(bytes),
        _ => Err(Trouble::failed("the answer has a value that is not base64")),
    }
}

/// A text in base64.
pub fn encode(text: &str) -> String {
    let mut out = Vec::new();
    grpc_web::encode(text.as_bytes(), &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, variables: &[(&str, &str)]) -> Result<Login, String> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        Access::read(kind, &variable).map(|access| access.login)
    }

    fn login(user: &str, secret: &str) -> Login {
        Login { user: user.into(), secret: secret.into() }
    }

    #[test]
    fn credentials_come_from_the_environment_under_the_names_that_their_stores_know() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, "of-a-file\n").expect("written");
        let path = file.path().to_str().expect("a path");
        let is = |outcome: Result<Login, String>, wanted: Login| assert!(outcome.is_ok_and(|found| found == wanted));
        is(read(Kind::Consul, &[]), login("", ""));
        is(read(Kind::Consul, &[("CONSUL_HTTP_TOKEN", "t")]), login("", "t"));
        is(read(Kind::Consul, &[("CONSUL_HTTP_TOKEN_FILE", path)]), login("", "of-a-file"));
        is(read(Kind::Etcd, &[("ETCDCTL_USER", "u:p:q"), ("ETCDCTL_PASSWORD", "x")]), login("u", "p:q"));
        is(read(Kind::Etcd, &[("ETCDCTL_USER", "u"), ("ETCDCTL_PASSWORD_FILE", path)]), login("u", "of-a-file"));
        for (kind, variables, told) in [
            (Kind::Consul, [("CONSUL_HTTP_TOKEN_FILE", "/nowhere/at/all")], "CONSUL_HTTP_TOKEN_FILE: /nowhere"),
            (Kind::Consul, [("CONSUL_HTTP_TOKEN_FILE", "/")], "CONSUL_HTTP_TOKEN_FILE: /"),
            (Kind::Consul, [("CONSUL_HTTP_TOKEN_FILE", "/dev/zero")], "larger than"),
            (Kind::Etcd, [("ETCDCTL_CERT", path)], "ETCDCTL_CERT and ETCDCTL_KEY go together"),
        ] {
            let error = read(kind, &variables).err().expect("refused");
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn base64_goes_both_ways() {
        for text in ["", "a", "ab", "abc", "ringway/config é"] {
            assert_eq!(decode(&encode(text)), Ok(text.as_bytes().to_vec()));
        }
        assert!(decode("YQ").is_err() && decode("Y Q=").is_err());
    }
}
