//! Where the Kubernetes API is and who we are there: from a kubeconfig file, or from what a pod finds in itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::client::tls;
use super::dns::Names;
use super::http::Api;
use super::provider::Trouble;
use crate::schema::{Diagnostics, FixedEnv, Node, Source, parse};
use crate::snapshot::Kubernetes;

/// What a pod finds in itself.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A cluster.
pub struct Cluster {
    /// Its API.
    pub api: Api,
    /// The namespace that is meant when none is named.
    pub namespace: String,
    token: Token,
}

enum Token {
    None,
    Fixed(String),
    /// Replaced while the gateway runs.
    File(PathBuf),
}

impl Cluster {
    /// The token, if there is one.
    pub fn token(&self) -> Result<Option<String>, Trouble> {
        match &self.token {
            Token::None => Ok(None),
            Token::Fixed(token) => Ok(Some(token.clone())),
            Token::File(path) => Ok(Some(read(path)?.trim().to_owned())),
        }
    }
}

fn read(path: &Path) -> Result<String, Trouble> {
    std::fs::read_to_string(path).map_err(|error| Trouble::failed(format!("{}: {error}", path.display())))
}

/// Finds the cluster. Reads files; not for a thread that others wait for.
pub fn find(settings: &Kubernetes, names: Arc<Names>) -> Result<Cluster, Trouble> {
    match settings.kubeconfig.is_empty() {
        true => in_cluster(Path::new(ACCOUNT), |name| std::env::var(name).ok(), names),
        false => from_file(Path::new(&settings.kubeconfig), &settings.context, names),
    }
}

fn in_cluster(
    account: &Path,
    variable: impl Fn(&str) -> Option<String>,
    names: Arc<Names>,
) -> Result<Cluster, Trouble> {
    let named = |name: &str| variable(name).ok_or_else(|| Trouble::failed(format!("{name} is not set: not in a pod?")));
    let port = named("KUBERNETES_SERVICE_PORT")?;
    let port = port.parse().map_err(|_| Trouble::failed("KUBERNETES_SERVICE_PORT is no port"))?;
    let authorities = read(&account.join("ca.crt"))?;
    let host = named("KUBERNETES_SERVICE_HOST")?;
    let tls = Some(tls(Some(authorities.as_bytes()), None).map_err(Trouble::failed)?);
    Ok(Cluster {
        api: Api { host, port, tls, tls_name: None, names },
        namespace: read(&account.join("namespace"))
            .map_or_else(|_| "default".to_owned(), |text| text.trim().to_owned()),
        token: Token::File(account.join("token")),
    })
}

fn from_file(path: &Path, context: &str, names: Arc<Names>) -> Result<Cluster, Trouble> {
    let text = read(path)?;
    let mut diagnostics = Diagnostics::new(Arc::new(Source::new(path.display().to_string(), text)));
    let env = FixedEnv::default();
    let wrong = |what: &str| Trouble::failed(format!("{}: {what}", path.display()));
    let root = parse(&env, &mut diagnostics).ok_or_else(|| wrong("it cannot be read as YAML"))?;
    let current = text_of(&root, "current-context").unwrap_or_default();
    let name = if context.is_empty() { current } else { context };
    let context = entry(&root, "contexts", name, "context").ok_or_else(|| wrong(&format!("no context `{name}`")))?;
    let cluster = text_of(context, "cluster").and_then(|name| entry(&root, "clusters", name, "cluster"));
    let cluster = cluster.ok_or_else(|| wrong("the context names no cluster"))?;
    let user = text_of(context, "user").and_then(|name| entry(&root, "users", name, "user"));
    if user.is_some_and(|user| user.get("exec").is_some() || user.get("auth-provider").is_some()) {
        return Err(wrong(
            "its user gets a token from a program, which is not run here: use a service account's token",
        ));
    }
    if text_of(cluster, "insecure-skip-tls-verify") == Some("true") {
        return Err(wrong("insecure-skip-tls-verify: name the certificate authority instead"));
    }
    let server = text_of(cluster, "server").ok_or_else(|| wrong("the cluster has no server"))?;
    let (is_https, host, port) = Api::parse(server)?;
    let bytes = |node: Option<&Node>, key: &str| data(path, node, key);
    let authorities = bytes(Some(cluster), "certificate-authority")?;
    let identity = (bytes(user, "client-certificate")?, bytes(user, "client-key")?);
    let identity = match &identity {
        (Some(chain), Some(key)) => Some((&chain[..], &key[..])),
        _ => None,
    };
    let tls = if is_https { Some(tls(authorities.as_deref(), identity).map_err(Trouble::failed)?) } else { None };
    let token = match (user.and_then(|user| text_of(user, "tokenFile")), user.and_then(|user| text_of(user, "token"))) {
        (Some(file), _) => Token::File(beside(path, file)),
        (None, Some(token)) => Token::Fixed(token.to_owned()),
        (None, None) => Token::None,
    };
    let namespace = text_of(context, "namespace").unwrap_or("default").to_owned();
    let tls_name = text_of(cluster, "tls-server-name").map(str::to_owned);
    Ok(Cluster { api: Api { host, port, tls, tls_name, names }, namespace, token })
}

fn text_of<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    Some(node.get(key)?.as_scalar()?.text.as_str()).filter(|text| !text.is_empty())
}

/// `{name: …, kind: …}` in a list.
fn entry<'n>(root: &'n Node, list: &str, name: &str, kind: &str) -> Option<&'n Node> {
    root.get(list)?.as_sequence()?.iter().find(|item| text_of(item, "name") == Some(name))?.get(kind)
}

/// What stands under `key-data` in base64, or in the file that `key` names.
fn data(path: &Path, node: Option<&Node>, key: &str) -> Result<Option<Vec<u8>>, Trouble> {
    let Some(node) = node else { return Ok(None) };
    if let Some(text) = text_of(node, &format!("{key}-data")) {
        let bytes = decode_base64(text).ok_or_else(|| Trouble::failed(format!("{key}-data is not base64")))?;
        return Ok(Some(bytes));
    }
    match text_of(node, key) {
        Some(file) => Ok(Some(read(&beside(path, file))?.into_bytes())),
        None => Ok(None),
    }
}

/// A path in a file is meant beside that file.
fn beside(path: &Path, file: &str) -> PathBuf {
    path.parent().map_or_else(|| file.into(), |dir| dir.join(file))
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Arc<Names> {
        Names::new(&crate::snapshot::Dns::default())
    }

    const FILE: &str = "\
apiVersion: v1
kind: Config
current-context: one
contexts:
- {name: one, context: {cluster: c, user: u, namespace: shop}}
- {name: two, context: {cluster: c, user: program}}
- {name: three, context: {cluster: open, user: u}}
clusters:
- {name: c, cluster: {server: \"http://127.0.0.1:8001\", tls-server-name: api}}
- {name: open, cluster: {server: \"https://127.0.0.1:6443\", insecure-skip-tls-verify: true}}
users:
- {name: u, user: {token: secret}}
- {name: program, user: {exec: {command: aws}}}
";

    #[test]
    fn a_kubeconfig_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config");
        std::fs::write(&path, FILE).expect("written");
        let cluster = from_file(&path, "", names()).map_err(|trouble| trouble.text).expect("a cluster");
        assert_eq!((&*cluster.api.host, cluster.api.port, &*cluster.namespace), ("127.0.0.1", 8001, "shop"));
        assert_eq!(cluster.token().ok().flatten().as_deref(), Some("secret"));
        let why =
            |context: &str| from_file(&path, context, names()).err().map(|trouble| trouble.text).unwrap_or_default();
        assert!(why("two").contains("program"), "{}", why("two"));
        assert!(why("three").contains("insecure-skip-tls-verify"));
        assert!(why("four").contains("no context `four`"));
        std::fs::write(&path, "[").expect("written");
        assert!(!why("").is_empty());
    }

    #[test]
    fn a_pod_knows_its_cluster() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some("10.96.0.1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
            _ => None,
        };
        assert!(in_cluster(dir.path(), |_| None, names()).is_err_and(|trouble| trouble.text.contains("not in a pod")));
        assert!(in_cluster(dir.path(), set, names()).is_err_and(|trouble| trouble.text.contains("ca.crt")));
        std::fs::write(dir.path().join("ca.crt"), "none").expect("written");
        assert!(in_cluster(dir.path(), set, names()).is_err_and(|trouble| trouble.text.contains("authority")));
    }

    #[test]
    fn base64_is_decoded() {
        assert_eq!(decode_base64("aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(decode_base64("aGVs\nbG8+"), Some(b"hello>".to_vec()));
        assert_eq!(decode_base64("a*b"), None);
        assert_eq!(decode_base64(""), Some(Vec::new()));
    }
}
