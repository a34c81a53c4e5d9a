//! A real Kubernetes API server with its etcd (`tests/external/kube_cluster.py`), where they are built.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// The server; ends with its guard.
pub struct Cluster {
    pub port: u16,
    /// With `ca.crt`, and `user.crt` and `user.key` of an operator.
    pub dir: PathBuf,
    child: Child,
    talk: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl Cluster {
    /// One with a namespace `shop` that has an account `gateway`, which may read its endpoints or not.
    pub fn with_shop(is_allowed: bool) -> Option<Self> {
        let cluster = Self::start()?;
        cluster.namespace("shop");
        cluster.account("shop", "gateway");
        if is_allowed {
            cluster.allow("shop", "gateway");
        }
        Some(cluster)
    }

    /// None where the programs are not there, which is said.
    fn start() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let programs = std::env::var_os("KUBE_BIN").map_or_else(|| root.join("target/tools"), PathBuf::from);
        if !programs.join("kube-apiserver").exists() {
            println!("skipped: no Kubernetes API server here (tests/external/build_kube builds one)");
            return None;
        }
        let mut command = Command::new("python3");
        command.arg(root.join("tests/external/kube_cluster.py")).env("KUBE_BIN", programs);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let mut output = BufReader::new(output);
        let facts = line(&mut output);
        println!("kube-apiserver {}", facts["version"]);
        let port = facts["port"].as_u64().expect("a port") as u16;
        let dir = facts["dir"].as_str().expect("a directory").into();
        Some(Self { port, dir, child, talk: Mutex::new(Some((input, output))) })
    }

    fn order(&self, order: &Value) -> Value {
        let mut talk = self.talk.lock().expect("one at a time");
        let (input, output) = talk.as_mut().expect("until the end");
        writeln!(input, "{order}").expect("it listens");
        line(output)
    }

    /// What a gateway asked for so far, oldest first: verbs and targets.
    pub fn asked(&self) -> Vec<(String, String)> {
        let log = std::fs::read_to_string(self.dir.join("audit.log")).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = |line: &Value| {
            line["userAgent"].as_str().is_some_and(|agent| agent.contains("ringway"))
                && line["stage"] == "RequestReceived"
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        lines.filter(ours).map(|line| (text(&line["verb"]), text(&line["requestURI"]))).collect()
    }

    /// `kill`, `stop`, `start` the API; `compact` what it stores.
    pub fn make(&self, what: &str) {
        self.order(&json!({ "do": what }));
    }

    /// What an administrator asks of it.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let told = self.order(&json!({ "do": "ask", "method": method, "path": path, "body": body }));
        let status = told["status"].as_u64().unwrap_or(0);
        assert!((200..300).contains(&status), "{method} {path}: {told}");
        told["body"].clone()
    }

    /// Makes a slice, or makes it anew.
    #[track_caller]
    pub fn put(&self, slice: &Value) {
        let (space, name) = (slice["metadata"]["namespace"].as_str(), slice["metadata"]["name"].as_str());
        let all = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", space.expect("a namespace"));
        let one = format!("{all}/{}", name.expect("a name"));
        let there = self.order(&json!({ "do": "ask", "method": "GET", "path": one }));
        match there["status"].as_u64() {
            Some(200) => self.ask("PUT", &one, slice),
            _ => self.ask("POST", &all, slice),
        };
    }

    #[track_caller]
    pub fn delete(&self, space: &str, name: &str) {
        self.ask(
            "DELETE",
            &format!("/apis/discovery.k8s.io/v1/namespaces/{space}/endpointslices/{name}"),
            &Value::Null,
        );
    }

    #[track_caller]
    pub fn namespace(&self, name: &str) {
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.ask("POST", "/api/v1/namespaces", &body);
    }

    /// A service account that may do nothing yet.
    pub fn account(&self, space: &str, name: &str) {
        let body =
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": space } });
        self.ask("POST", &format!("/api/v1/namespaces/{space}/serviceaccounts"), &body);
    }

    /// Lets the account read slices.
    pub fn allow(&self, space: &str, name: &str) {
        let rules = json!([{ "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
            "verbs": ["list", "watch"] }]);
        let meta = json!({ "name": name, "namespace": space });
        let group = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{space}");
        let kind = "rbac.authorization.k8s.io/v1";
        let role = json!({ "apiVersion": kind, "kind": "Role", "metadata": meta, "rules": rules });
        self.ask("POST", &format!("{group}/roles"), &role);
        let binding = json!({ "apiVersion": kind, "kind": "RoleBinding", "metadata": meta,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": space }] });
        self.ask("POST", &format!("{group}/rolebindings"), &binding);
    }

    /// A new token of an account, as a kubelet asks for it.
    pub fn token_of(&self, space: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{space}/serviceaccounts/{name}/token");
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "expirationSeconds": 600 } });
        self.ask("POST", &path, &body)["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// A kubeconfig whose user is this.
    pub fn kubeconfig(&self, path: &Path, namespace: &str, user: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: t\n\
             contexts: [{{name: t, context: {{cluster: c, user: u, namespace: {namespace}}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{}\", certificate-authority: {}}}}}]\n\
             users: [{{name: u, user: {user}}}]\n",
            self.port,
            self.dir.join("ca.crt").display()
        );
        std::fs::write(path, text).expect("written");
    }
}

fn line(output: &mut impl BufRead) -> Value {
    let mut text = String::new();
    output.read_line(&mut text).expect("a line");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("the cluster has ended: {text} ({error})"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It ends with its input, and ends its own first.
        *self.talk.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.child.wait();
    }
}
