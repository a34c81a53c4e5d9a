//! A real Kubernetes API server (R227): lists and watches, permissions, tokens that are replaced, a server that is
//! started again, versions that have expired.
//!
//! `tests/external/build_kube` builds the server, which takes long; the tests say that they are skipped where it is
//! not. What it answered is played back where it is not there, in [`crate::recorded`]. No controller runs beside it:
//! the slices are the tests' own. The API takes no address of 127.0.0.0/8 for an endpoint, so origins are asked at this
//! machine's own address, which is the loopback too.

use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::gateway::{BINARY, Plan};
use crate::support::kubernetes::Cluster;
use crate::support::load::Load;
use crate::support::{Gateway, Origin, eventually, ok};

/// This machine's address, where it has one; nothing is sent to find it.
fn own_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

fn slice(name: &str, service: &str, port: u16, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": port}, {"name": "metrics", "port": 9}, {"name": "dns", "port": 53,
            "protocol": "UDP"}],
        "endpoints": endpoints,
    })
}

fn ready(ip: &str) -> Value {
    json!({ "addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false} })
}

fn ending(ip: &str, serving: bool) -> Value {
    json!({ "addresses": [ip], "conditions": {"ready": false, "serving": serving, "terminating": true} })
}

fn config(kubeconfig: &Path, service: &str) -> String {
    format!(
        "discovery: {{wait: 5s, kubernetes: {{kubeconfig: {}}}}}\n\
         services:\n- {{name: up, discovery: [{{kubernetes: {{service: {service}, port: http}}}}]}}\n\
         routes:\n- {{path: /*, service: up}}\n",
        kubeconfig.display()
    )
}

fn new_token(cluster: &Cluster, dir: &Path) {
    std::fs::write(dir.join("token"), cluster.token_of("shop", "gateway")).expect("written");
}

/// A kubeconfig with a new token of the gateway's account.
fn with_token(cluster: &Cluster, dir: &Path) -> PathBuf {
    let kubeconfig = dir.join("config");
    new_token(cluster, dir);
    cluster.kubeconfig(&kubeconfig, "shop", "{tokenFile: token}");
    kubeconfig
}

fn source(gateway: &Gateway) -> Value {
    gateway.ask_admin("GET", "/services").json()[0]["sources"][0].clone()
}

#[track_caller]
fn wait_state(gateway: &Gateway, state: &str, error: &str) {
    eventually(&format!("the lookup is {state}: {error}"), || {
        let source = source(gateway);
        let says = source["error"].as_str().unwrap_or_default().contains(error);
        (source["state"] == state && says).then_some(())
    });
}

#[track_caller]
fn wait_resolved(gateway: &Gateway, expected: &[String]) {
    let mut expected = expected.to_vec();
    expected.sort();
    eventually(&format!("endpoints are {expected:?}"), || {
        let mut found = gateway.resolved();
        found.sort();
        (found == expected).then_some(())
    });
}

#[test]
fn a_real_api_server_is_followed_under_load() {
    let (Some(cluster), Some(ip)) = (Cluster::with_shop(false), own_ip()) else { return };
    let origins = [(); 3].map(|()| Origin::everywhere(|_| ok("up")));
    let [one, two, three] = origins.each_ref().map(|origin| origin.address.port());
    let (ip, at) = (ip.to_string(), |port: u16| format!("{ip}:{port}"));
    let dir = tempfile::tempdir().expect("a directory");
    let kubeconfig = with_token(&cluster, dir.path());
    let mut known = ready(&ip);
    known["zone"] = json!("eu-1a");
    known["nodeName"] = json!("node-7");
    known["targetRef"] = json!({"kind": "Pod", "name": "users-1", "namespace": "shop"});
    cluster.put(&slice("a", "users", one, json!([known, ending("10.0.0.9", true)])));
    cluster.put(&slice("other", "else", three, json!([ready(&ip)])));
    // Not allowed yet, and told in the server's own words; once it is, without anybody's doing.
    let gateway = Gateway::start(&config(&kubeconfig, "users"));
    wait_state(&gateway, "failed", "cannot list resource \"endpointslices\" in API group \"discovery.k8s.io\"");
    cluster.allow("shop", "gateway");
    wait_resolved(&gateway, &[at(one)]);
    let told = gateway.ask_admin("GET", "/services/up/endpoints").json()[0].clone();
    assert_eq!(
        (&told["zone"], &told["metadata"]["pod"], &told["metadata"]["node"]),
        (&json!("eu-1a"), &json!("users-1"), &json!("node-7"))
    );
    let load = Load::start(gateway.address, 1, 2, 0);
    let step = |expected: &[u16]| {
        wait_resolved(&gateway, &expected.iter().map(|port| at(*port)).collect::<Vec<_>>());
        load.wait(10);
    };
    cluster.put(&slice("b", "users", two, json!([ready(&ip)])));
    step(&[one, two]);
    // Ready no more, and taken from in turn: first a change, then a slice that goes.
    cluster.put(&slice("a", "users", one, json!([ending(&ip, true)])));
    step(&[two]);
    cluster.delete("shop", "a");
    cluster.put(&slice("c", "users", three, json!([ready(&ip)])));
    step(&[two, three]);
    // Where none is ready, those that serve while they end do.
    cluster.put(&slice("c", "users", three, json!([ending(&ip, true)])));
    cluster.put(&slice("b", "users", two, json!([ending(&ip, true)])));
    step(&[two, three]);
    cluster.put(&slice("b", "users", two, json!([ending(&ip, false)])));
    step(&[three]);
    // Another port of the same slices, by a reload; the UDP one is none of ours.
    let other = config(&kubeconfig, "users").replace("port: http", "port: dns");
    load.finish();
    assert_eq!(gateway.reload(&other).status, 200);
    wait_resolved(&gateway, &[]);
    assert_eq!(gateway.reload(&other.replace("port: dns", "port: metrics")).status, 200);
    wait_resolved(&gateway, &[at(9)]);
    cluster.delete("shop", "b");
    cluster.delete("shop", "c");
    wait_resolved(&gateway, &[]);
    assert_eq!(source(&gateway)["state"], "current", "an empty list is believed");
}

#[test]
fn a_service_of_more_slices_than_one_page_is_whole() {
    let Some(cluster) = Cluster::with_shop(true) else { return };
    let ip = |n: usize| format!("10.1.{}.{}", n / 200, n % 200 + 1);
    for n in 0..260 {
        cluster.put(&slice(&format!("s{n}"), "many", 80, json!([ready(&ip(n))])));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let kubeconfig = dir.path().join("config");
    let (cert, key) = (cluster.dir.join("user.crt"), cluster.dir.join("user.key"));
    let user = format!("{{client-certificate: {}, client-key: {}}}", cert.display(), key.display());
    cluster.kubeconfig(&kubeconfig, "shop", &user);
    let gateway = Gateway::start(&config(&kubeconfig, "many"));
    let mut expected: Vec<_> = (0..260).map(|n| format!("{}:80", ip(n))).collect();
    wait_resolved(&gateway, &expected);
    // What follows the pages is watched from where they were read.
    cluster.delete("shop", "s0");
    cluster.put(&slice("s260", "many", 81, json!([ready("10.2.0.1")])));
    expected[0] = "10.2.0.1:81".to_owned();
    wait_resolved(&gateway, &expected);
}

#[test]
fn a_real_api_server_that_goes_and_comes_back_is_believed_meanwhile() {
    let Some(cluster) = Cluster::with_shop(true) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let kubeconfig = with_token(&cluster, dir.path());
    let put = |ips: &[&str]| {
        let endpoints: Vec<_> = ips.iter().map(|ip| ready(ip)).collect();
        cluster.put(&slice("a", "users", 80, json!(endpoints)));
    };
    put(&["10.0.0.1"]);
    let gateway = Gateway::start(&config(&kubeconfig, "users"));
    gateway.wait_resolved_ips(&["10.0.0.1"]);
    put(&["10.0.0.1", "10.0.0.2"]);
    gateway.wait_resolved_ips(&["10.0.0.1", "10.0.0.2"]);
    // It dies; what it said last holds. Back again, it is followed as before.
    cluster.make("kill");
    wait_state(&gateway, "stale", "");
    assert_eq!(gateway.resolved_ips(), ["10.0.0.1", "10.0.0.2"]);
    cluster.make("start");
    wait_state(&gateway, "current", "");
    put(&["10.0.0.3"]);
    gateway.wait_resolved_ips(&["10.0.0.3"]);
    // The version that the gateway knows is gone: it sleeps through two restarts, and goes on where nobody can.
    gateway.signal("STOP");
    // Ends its watches in good order.
    cluster.make("stop");
    cluster.make("start");
    put(&["10.0.0.4"]);
    cluster.make("kill");
    cluster.make("compact");
    cluster.make("start");
    let before = cluster.asked().len();
    gateway.signal("CONT");
    gateway.wait_resolved_ips(&["10.0.0.4"]);
    wait_state(&gateway, "current", "");
    let verbs = || cluster.asked()[before..].iter().map(|(verb, _)| verb.clone()).collect::<Vec<_>>();
    eventually("it watches again", || (verbs().last().is_some_and(|verb| verb == "watch")).then_some(()));
    assert_eq!(verbs(), ["watch", "list", "watch"], "one that has expired, and no pause: {:?}", cluster.asked());
    // Its account is another one of the same name: the old token is nobody's, and the next one is read when it comes.
    cluster.ask("DELETE", "/api/v1/namespaces/shop/serviceaccounts/gateway", &Value::Null);
    cluster.account("shop", "gateway");
    cluster.make("kill");
    cluster.make("start");
    wait_state(&gateway, "stale", "answered 401: Unauthorized");
    assert_eq!(gateway.resolved_ips(), ["10.0.0.4"]);
    new_token(&cluster, dir.path());
    put(&["10.0.0.5"]);
    gateway.wait_resolved_ips(&["10.0.0.5"]);
    wait_state(&gateway, "current", "");
}

#[test]
fn a_gateway_in_a_pod_finds_the_api_by_itself() {
    let Some(cluster) = Cluster::with_shop(true) else { return };
    cluster.put(&slice("a", "users", 80, json!([ready("10.0.0.1")])));
    let dir = tempfile::tempdir().expect("a directory");
    let account = dir.path().join("account");
    std::fs::create_dir(&account).expect("a directory");
    std::fs::copy(cluster.dir.join("ca.crt"), account.join("ca.crt")).expect("copied");
    std::fs::write(account.join("namespace"), "shop").expect("written");
    std::fs::write(account.join("token"), cluster.token_of("shop", "gateway")).expect("written");
    // A /run of its own, in which the files are where a pod has them.
    let pod = dir.path().join("pod");
    let script = format!(
        "#!/bin/sh\nexec unshare -rm sh -c 'mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && \
         ln -s {} /run/secrets/kubernetes.io/serviceaccount && exec {BINARY} \"$@\"' pod \"$@\"\n",
        account.display()
    );
    std::fs::write(&pod, script).expect("written");
    std::fs::set_permissions(&pod, PermissionsExt::from_mode(0o755)).expect("executable");
    let works = std::process::Command::new(&pod).arg("--version").output().expect("a shell");
    if !works.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&works.stderr));
        return;
    }
    let yaml = config(Path::new("x"), "users").replace(", kubernetes: {kubeconfig: x}", "");
    let plan = Plan::new(&yaml).env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
    let gateway = plan.env("KUBERNETES_SERVICE_PORT", cluster.port).binary(&pod).start();
    gateway.wait_resolved_ips(&["10.0.0.1"]);
    cluster.put(&slice("a", "users", 80, json!([ready("10.0.0.2")])));
    gateway.wait_resolved_ips(&["10.0.0.2"]);
}
