//! A file that is read again, of which only what is new goes through the scanner: nothing may show it but the time.

use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;
use ringway::config::compile::{Inputs, compile};
use ringway::config::{Loaded, Present, load_str, load_str_after};
use ringway::net::mem::Mem;
use ringway::pipeline::plan::{Plan, Preparing};
use ringway::policy::slots::Slots;
use ringway::policy::{CompileEnv, SCHEMA, Tick, WorkerSeed};
use ringway::schema::{FixedEnv, Kept};
use ringway::snapshot::{Endpoint, Fallback, Service, Snapshot};
use ringway::telemetry::metrics::WorkerMetrics;
use ringway::time::Now;

const ENVS: [&[(&str, &str)]; 2] = [&[("PORT", "81"), ("NAME", "s1")], &[("PORT", "82"), ("NAME", "s2")]];

fn env(which: usize) -> FixedEnv {
    FixedEnv::of(ENVS[which % ENVS.len()])
}

/// Parts of files, good and bad ones; `#` stands for a number.
const SERVICES: &[&str] = &[
    "  - name: s#\n    endpoints: [\"127.0.0.1:8#\"]\n",
    "  - name: s#\n    endpoints:\n      - 127.0.0.1:8#\n      # another\n      - address: 127.0.0.2:8#\n        \
     weight: 3\n",
    "  - {name: s#, endpoints: [\"127.0.0.1:8#\"]}\n",
    "  -\n    name: s#\n    endpoints: [\"127.0.0.1:8#\"]\n",
    "  - name: s#\n    endpoints: [\"127.0.0.1:${PORT}\"]\n\n",
    "  - name: \"s#\"\n    endpoints: [\n      \"127.0.0.1:8#\",\n      ]\n",
    "  - &a#\n    name: s#\n    endpoints: [\"127.0.0.1:8#\"]\n",
    "  - name: s#\n    endpoints: [\"127.0.0.1:8#\"]\n    timeouts: {connect: 1s}\n    health_check: {path: /h}\n",
    "  - name: s#\n    endpoints: [\"127.0.0.1:8#\"]\n    fallback: {service: s2}\n",
    "  - name: s#\n    endpoints: [\"127.0.0.1:8#\"]\n    fallback:\n      service: s5\n",
];
const ROUTES: &[&str] = &[
    "- path: /r#\n  service: s#\n",
    "- {path: /r#, service: s#}\n",
    "- name: r#\n  path: /n#/*\n  service: s#\n  strip_prefix: true\n",
    "- path: /t#\n  respond:\n    body: |\n      text #\n\n      - more\n\n# behind\n",
    "- path: /t#\n  respond:\n    body: |+\n      text #\n\n",
    "- path: /t#\n  respond:\n    body: >-\n      text\n      #\n",
    "- path: /q#\n  respond: {body: \"one\n    two #\n\n    three\"}\n",
    "- path: /p#\n  respond:\n    body: plain\n      text #\n",
    "- path: /r#\n  service: ${NAME}\n",
    "- path: /m#\n  service: s#\n  mirror: {service: s3}\n",
    "- path: /w#\n  services: [{name: s#, weight: 1}, {name: s4, weight: 2}]\n",
    "- path: /l#\n  service: s#\n  load_balancer: {algorithm: random}\n",
    "- path: /u#\n  service: s#\n  policies:\n  - ip: {deny: [10.0.0.#/32]}\n  - headers: {request: {set: {X-A: \"#\"}}}\n",
];
const EVIL: &[&str] = &[
    "  - name: \"s#\n",
    "- \n",
    "-\n",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "  - *a#\n",
    "  <<: *a1\n",
    "\tx: 1\n",
    "  weight: 2\n",
    " # a\n",
    "#\n",
    "\n",
    "routes: []\n",
    "services:\n",
    "x-y: &a1 {name: s1}\n",
    "x-z:\n  - &a2 s2\n",
    "}\n",
    "]\n",
    "'\n",
    "\"\n",
    "    nope: #\n",
    "  - name: s1\n",
    "- path: /r1\n  service: s9\n",
    "order: strict\n",
    "server: {timeout: #s}\n",
    "? a\n",
    "- path: é#\n",
    "- path: /é#\n  respond: {body: \"ü\"}\n",
    "- path: /r#\n  respond: {body: \"\\x41\"}\n",
    "  - |\n",
    "- - a\n",
    "\u{feff}",
    "\r\n",
    "policies:\n- ip: {deny: [10.0.0.#/32]}\n",
    "default_route: {service: s1}\n",
    "api_gateway: {}\n",
    "- !!str a\n",
    "- path: /${NOPE}\n  service: s1\n",
    "- path: /$$#\n  respond: {body: a}\n",
];

/// One of the parts, with a number in it.
fn part(of: &[&str], which: u32, number: u32) -> String {
    let text = of[which as usize % of.len()];
    // What begins with it is a comment.
    let lines = text.split_inclusive('\n').map(|line| match line.trim_start().starts_with('#') {
        true => line.to_owned(),
        false => line.replace('#', &(number % 7).to_string()),
    });
    lines.collect()
}

fn first(seed: &[u32]) -> String {
    let mut text = String::from("# begins\nlisteners: [\"127.0.0.1:0\"]\nservices:\n");
    for name in 0..7 {
        text += &part(SERVICES, seed[name as usize], name);
    }
    text += "routes:\n";
    for name in 0..7 {
        text += &format!("- path: /base{name}\n  service: s{name}\n");
    }
    text + &part(ROUTES, seed[7], seed[7] / 64)
}

fn edited(text: &str, (what, at, which): (u8, u32, u32)) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let at = at as usize % (lines.len() + 1);
    match what % 9 {
        0 => lines.insert(at, part(EVIL, which, which / 64)),
        1 if at < lines.len() => drop(lines.remove(at)),
        2 if at < lines.len() => lines[at] = format!("{}z\n", lines[at].trim_end_matches('\n')),
        3 if at < lines.len() => {
            let line = lines.remove(at);
            lines.insert(which as usize % (lines.len() + 1), line);
        }
        4 => lines.insert(at, "# said\n".to_owned()),
        // Behind a whole item, most often.
        5 | 6 => {
            let begins = if what % 9 == 5 { "  - " } else { "- " };
            let list = if what % 9 == 5 { SERVICES } else { ROUTES };
            let place = (at..lines.len()).find(|at| lines[*at].starts_with(begins));
            if let Some(place) = place {
                lines.insert(place, part(list, which, which / 64));
            }
        }
        7 if at < lines.len() => lines[at] = lines[at].replace(['0', '1', '2'], &(which % 10).to_string()),
        _ => {}
    }
    lines.concat()
}

fn load(before: Option<&Kept>, text: &str, which: usize) -> Option<Loaded> {
    let loaded = load_str_after(before, "t.yaml", text, &env(which), SCHEMA).ok();
    loaded.filter(|loaded| loaded.warnings.is_empty())
}

/// As the workers would have it; none where anything is found in it only now.
fn compiled(loaded: &Loaded, previous: Option<&Snapshot>) -> Option<Snapshot> {
    let policies = CompileEnv { workers: 1, random: 0 };
    let (snapshot, found) = compile(loaded, &Inputs { generation: 1, policies, resolve: None, previous }).ok()?;
    found.is_empty().then_some(snapshot)
}

/// All that the configuration has a say in.
fn shown(snapshot: &Snapshot) -> String {
    let service = |id: &u32| snapshot.services.get(*id as usize).map_or("none", |service| &service.name);
    let services = snapshot.services.iter().map(|one| {
        let check = one.check.as_ref().map(|check| format!("{check:?}"));
        let fallback = match &one.fallback {
            Some(Fallback::Service(id)) => service(id).to_owned(),
            other => format!("{other:?}"),
        };
        let Service { name, label, sources, rules, resilience, .. } = &**one;
        format!("{name} {label} {sources:?} {rules:?} {resilience:?} {check:?} {fallback}\n")
    });
    let routes = snapshot.routes.iter().map(|route| {
        let services: Vec<_> = route.action.services().iter().map(service).collect();
        let slots: Vec<_> = route.chain.slots().iter().map(|slot| slot.id().to_owned()).collect();
        format!("{} {} {services:?} {slots:?} {} {:?}\n", route.name, route.pattern, route.timeout_ms, route.rewrite)
    });
    let services: String = services.collect();
    services + &routes.collect::<String>() + &format!("{:?} {:?}", snapshot.default_route, snapshot.table.specs())
}

/// A worker, as far as it takes up configurations.
struct Worker {
    slots: Slots,
    metrics: WorkerMetrics,
    plan: Option<Plan<Mem>>,
}

impl Worker {
    fn new() -> Self {
        let seed = WorkerSeed { index: 0, count: 1, random: 1, tick: Tick::default() };
        Self { slots: Slots::new(seed), metrics: WorkerMetrics::new(0, Now(0)), plan: None }
    }

    /// In slices of a few; `is_told` that the endpoints of a service are others before the new one serves. What both
    /// snapshots have is not made anew, and nothing else is kept.
    fn take_up(&mut self, snapshot: &Arc<Snapshot>, is_told: bool) {
        let mut preparing = Preparing::new(snapshot.clone(), self.plan.as_ref());
        while preparing.step(&mut self.slots, &mut self.metrics, Tick::default(), 1, 2) {}
        let plan = preparing.into_plan();
        if is_told && let Some(service) = snapshot.services.first() {
            let mut endpoints = service.endpoints.get().endpoints.clone();
            endpoints.extend(endpoints.first().cloned().map(|one| Endpoint { authority: "another:1".into(), ..one }));
            service.endpoints.replace(&endpoints);
            self.plan.iter().for_each(|serving| _ = serving.follow(None));
        }
        plan.commit(self.plan.as_ref().map(|plan| &*plan.snapshot), &mut self.slots, Now(0));
        for (at, (service, spec)) in plan.services.iter().zip(&snapshot.services).enumerate() {
            let shown = service.report().into_iter().map(|endpoint| endpoint.authority);
            let wanted = spec.endpoints.get().endpoints.iter().map(|one| one.authority.clone()).collect::<Vec<_>>();
            assert_eq!((service.name(), shown.collect::<Vec<_>>()), (&*spec.name, wanted), "{at}");
            let before = self.plan.as_ref().and_then(|plan| {
                let at = plan.snapshot.services.iter().position(|before| Arc::ptr_eq(before, spec))?;
                plan.services.get(at)
            });
            let is_kept = self.plan.iter().flat_map(|plan| &plan.services).any(|before| Rc::ptr_eq(before, service));
            assert_eq!(before.is_some_and(|before| Rc::ptr_eq(before, service)), is_kept, "{at}");
            assert_eq!(before.is_some(), is_kept, "{at}");
        }
        let all: Vec<_> = snapshot.routes.iter().map(|route| route.chain.slots().is_empty()).collect();
        assert_eq!(plan.routes.iter().map(|route| route.chain.is_empty()).collect::<Vec<_>>(), all);
        self.plan = Some(plan);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to a file: read again with what was kept of it, it says what it says to one who has never seen
    /// it; and where there is anything to report, then so there is here, and places are those of a whole reading.
    #[test]
    fn what_is_read_again_is_what_the_whole_says(
        seed in prop::collection::vec(any::<u32>(), 8),
        edits in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 1..12),
        environments in prop::collection::vec(0..2_usize, 12),
    ) {
        let mut text = first(&seed);
        let mut kept = load(None, &text, environments[0]).map(|loaded| loaded.kept);
        let (mut serves, mut worker): (Option<Arc<Snapshot>>, _) = (None, Worker::new());
        for (edit, which) in edits.into_iter().zip(environments) {
            let now = edited(&text, edit);
            let whole = load_str("t.yaml", &now, &env(which), SCHEMA);
            let again = load(kept.as_deref(), &now, which);
            let good = whole.as_ref().ok().filter(|loaded| loaded.warnings.is_empty());
            match (good, &again) {
                (Some(whole), Some(again)) => {
                    prop_assert_eq!(whole.effective(), again.effective(), "{}", now);
                    let (from_whole, from_again) = (compiled(whole, None), compiled(again, serves.as_deref()));
                    prop_assert_eq!(from_whole.as_ref().map(shown), from_again.as_ref().map(shown), "{}", now);
                    // One that was refused never serves, and nothing of it is kept.
                    if let Some(snapshot) = from_again.map(Arc::new) {
                        worker.take_up(&snapshot, edit.1 % 2 == 0);
                        serves = Some(snapshot);
                    }
                }
                (None, None) => {}
                (whole, again) => prop_assert!(false, "{} {}\n{}", whole.is_some(), again.is_some(), now),
            }
            // As a gateway does: what is refused changes nothing, and the next edit may mend it.
            if again.is_some() {
                let serving = serves.as_deref().and_then(|snapshot| Present::in_snapshot(snapshot)?.kept.clone());
                kept = serving.or(again.map(|again| again.kept));
                text = now;
            } else if edit.1 % 3 == 0 {
                text = now;
            }
        }
    }
}

const FILE: &str = "listeners: [\"127.0.0.1:0\"]\nservices:\n  - name: a\n    endpoints: [\"127.0.0.1:1\"]\n  \
                    - name: b\n    endpoints: [\"127.0.0.1:2\"]\nroutes:\n- path: /a\n  service: a\n\
                    - path: /b\n  service: b\n";

#[test]
fn what_nothing_has_changed_for_is_not_compiled_anew() {
    let first = load(None, FILE, 0).expect("good");
    let serves = compiled(&first, None).expect("good");
    let next = |text: &str| {
        let loaded = load(Some(&first.kept), text, 0).expect("good");
        compiled(&loaded, Some(&serves)).expect("good")
    };
    let with_service = next(&FILE.replace("127.0.0.1:2", "127.0.0.1:3"));
    assert!(Arc::ptr_eq(&serves.routes, &with_service.routes), "routes go by names of services");
    assert!(Arc::ptr_eq(&serves.services[0].endpoints, &with_service.services[0].endpoints));
    assert_eq!(with_service.services[1].sources[0].endpoint.authority, "127.0.0.1:3");
    let with_route = next(&FILE.replace("path: /b", "path: /c"));
    assert!(!Arc::ptr_eq(&serves.routes, &with_route.routes));
    assert!(Arc::ptr_eq(&serves.services[1].sources, &with_route.services[1].sources));
    // What stands elsewhere has a say in all: the time of a whole request is the server's.
    let slower = next(&FILE.replace("services:", "server: {timeout: 7s}\nservices:"));
    assert!(slower.routes.iter().all(|route| route.timeout_ms == 7_000));
    // Another service stands where one stood.
    let renamed = next(&FILE.replace("name: a\n", "name: z\n").replace("service: a\n", "service: z\n"));
    assert_eq!(renamed.services[0].name, "z");
    let swapped = next(
        &FILE.replace("name: a\n", "name: x\n").replace("name: b\n", "name: a\n").replace("name: x\n", "name: b\n"),
    );
    let service = |at: usize| &*swapped.services[swapped.routes[at].action.services()[0] as usize].name;
    assert_eq!((service(0), service(1)), ("a", "b"));
}

/// What is known is not looked at again: so what is done elsewhere must not be what makes it wrong. All combinations.
#[test]
fn names_that_come_and_go_are_found_wherever_they_are_used() {
    let file = "listeners: [\"127.0.0.1:0\"]\nservices:\n- name: a\n  endpoints: [\"127.0.0.1:1\"]\n- name: b\n  \
                endpoints: [\"127.0.0.1:2\"]\n- name: c\n  endpoints: [\"127.0.0.1:3\"]\n  fallback: {service: b}\n\
                routes:\n- name: one\n  path: /1\n  service: a\n- name: two\n  path: /2\n  service: c\n\
                - name: three\n  path: /3\n  service: a\n- name: four\n  path: /4\n  service: b\n";
    let edits = [
        ("- name: a\n", "- name: d\n"),
        ("- name: b\n", "- name: a\n"),
        ("127.0.0.1:3", "127.0.0.1:4"),
        ("fallback: {service: b}", "fallback: {service: a}"),
        ("/1\n  service: a", "/1\n  service: d"),
        ("name: two\n  path: /2\n  service: c", "name: two\n  path: /2\n  service: b"),
        ("- name: three\n  path: /3\n  service: a\n", ""),
        ("name: four", "name: one"),
        ("/4\n  service: b", "/1\n  service: b"),
    ];
    let first = load(None, file, 0).expect("good");
    let mut good = 0;
    for which in 0..1_u32 << edits.len() {
        let chosen = edits.iter().enumerate().filter(|(at, _)| which & (1 << at) != 0).map(|(_, edit)| edit);
        let text = chosen.fold(file.to_owned(), |text, (from, to)| text.replace(from, to));
        let (whole, again) = (load(None, &text, 0), load(Some(&first.kept), &text, 0));
        assert_eq!(whole.as_ref().map(Loaded::effective), again.as_ref().map(Loaded::effective), "{text}");
        good += usize::from(again.is_some());
    }
    assert!((8..1 << edits.len()).contains(&good), "{good}");
}

/// What an alias stands for, and what a variable says, are no part of an item's text.
#[test]
fn what_hangs_on_more_than_its_text_is_read_each_time() {
    let file = |port: &str| {
        let anchor = format!("x-all: &all {{endpoints: [\"127.0.0.1:{port}\"]}}\n");
        anchor + &FILE.replace("    endpoints: [\"127.0.0.1:1\"]\n", "    <<: *all\n")
    };
    let port = |loaded: &Loaded| loaded.config.services[0].endpoints[0].address.port;
    let first = load(None, &file("5"), 0).expect("good");
    let second = load(Some(&first.kept), &file("6"), 0).expect("good");
    assert_eq!((port(&first), port(&second)), (5, 6));
    let variable = FILE.replace("127.0.0.1:1", "127.0.0.1:${PORT}");
    let first = load(None, &variable, 0).expect("good");
    let second = load(Some(&first.kept), &variable, 1).expect("good");
    assert_eq!((port(&first), port(&second)), (81, 82));
    assert!(!first.kept.is_of(&variable), "nor is the whole said to be unchanged");
}

/// A route with a breaker of its own has its service's numbers.
#[test]
fn a_route_that_has_more_of_its_service_than_the_name_is_compiled_with_it() {
    let file = |threshold: u32| {
        FILE.replace(":1\"]\n", &format!(":1\"]\n    circuit_breaker: {{failure_threshold: {threshold}}}\n"))
            .replace("service: a\n", "service: a\n  circuit_breaker: own\n")
    };
    let first = load(None, &file(3), 0).expect("good");
    let serves = compiled(&first, None).expect("good");
    let second = load(Some(&first.kept), &file(4), 0).expect("good");
    let second = compiled(&second, Some(&serves)).expect("good");
    let rules = |snapshot: &Snapshot| {
        format!("{:?}", snapshot.routes[0].breaker.as_ref().and_then(|own| Some(own.as_ref()?.rules.clone())))
    };
    assert!(rules(&serves).contains(": 3") && rules(&second).contains(": 4"), "{}", rules(&second));
}

fn shared(one: &Loaded, other: &Loaded) -> (Vec<bool>, Vec<bool>) {
    let services = one.config.services.iter().zip(&other.config.services);
    let routes = one.config.routes.iter().zip(&other.config.routes);
    (
        services.map(|(one, other)| Arc::ptr_eq(&one.value, &other.value)).collect(),
        routes.map(|(one, other)| Arc::ptr_eq(&one.value, &other.value)).collect(),
    )
}

#[test]
fn only_what_is_written_anew_is_made_anew() {
    let first = load(None, FILE, 0).expect("good");
    let next = |text: &str| load(Some(&first.kept), text, 0).expect("good");
    let second = next(&FILE.replace("127.0.0.1:2", "127.0.0.1:3"));
    assert_eq!(shared(&first, &second).0, [true, false]);
    assert!(first.kept.has_same_rest(&second.kept), "it was read in pieces");
    let third = next(&FILE.replace(":0\"]", ":0\"]\norder: strict"));
    assert_eq!(shared(&first, &third).0, [true, true]);
    assert!(!first.kept.has_same_rest(&third.kept));
    let fourth = load(Some(&second.kept), &FILE.replace("services:", "# moved\n\nservices:"), 0).expect("good");
    assert_eq!(shared(&second, &fourth).0, [true, false], "what was read in pieces is kept for the next");
}

#[test]
fn a_route_without_a_name_is_the_same_one_for_as_long_as_it_gets_the_same_name() {
    let first = load(None, FILE, 0).expect("good");
    let second = load(Some(&first.kept), &FILE.replace("path: /b\n", "path: /c\n"), 0).expect("good");
    assert_eq!(shared(&first, &second).1, [true, false]);
    assert_eq!(second.config.routes[1].name(), "/c");
    let third = load(
        Some(&second.kept),
        &FILE.replace("path: /a\n", "path: /c\n  methods: [PUT]\n").replace("path: /b\n", "path: /c\n"),
        0,
    );
    let third = third.expect("good");
    let names: Vec<_> = third.config.routes.iter().map(|route| route.name()).collect();
    assert_eq!(names, ["/c", "/c#2"], "it has another name than before");
}
