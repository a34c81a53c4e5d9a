//! Sockets that the process was started with: from a service manager (systemd's `LISTEN_FDS`, `sd_listen_fds(3)`), or
//! from the process that it replaces ([`super::upgrade`]).
//!
//! ```text
//! from a manager     LISTEN_PID=42 LISTEN_FDS=2 LISTEN_FDNAMES=web:admin          descriptors 3 and 4
//! from a predecessor RINGWAY_UPGRADE_SOCKETS=7=127.0.0.1:80,9=admin@127.0.0.1:9901 RINGWAY_UPGRADE_ORDERS=12
//! ```

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::{SockRef, Type};

use crate::sys::process;

/// First descriptor of a service manager (`SD_LISTEN_FDS_START`).
const FIRST_DESCRIPTOR: RawFd = 3;
/// Most sockets that are taken over.
pub const SOCKETS_MAX: usize = 4_096;
/// The name that a manager gives to the socket of the admin API.
pub const ADMIN_NAME: &str = "admin";

/// The variable in which a predecessor names its sockets.
pub const SOCKETS_VARIABLE: &str = "RINGWAY_UPGRADE_SOCKETS";
/// The variable with the predecessor's process id: only its direct child takes the sockets.
pub const FROM_VARIABLE: &str = "RINGWAY_UPGRADE_FROM";
/// The variable with the descriptor over which successor and predecessor speak.
pub const LINK_VARIABLE: &str = "RINGWAY_UPGRADE_LINK";
/// The variable with the descriptor of what operators want of endpoints.
pub const ORDERS_VARIABLE: &str = "RINGWAY_UPGRADE_ORDERS";
/// The variable that counts upgrades since the first start.
pub const COUNT_VARIABLE: &str = "RINGWAY_UPGRADE_COUNT";

/// A listening socket that was there before the process.
#[derive(Debug)]
pub struct Given {
    /// The address as it is configured, where the giver says so; else the address that it is bound to.
    pub address: SocketAddr,
    /// What the giver calls it: [`ADMIN_NAME`], a listener's name, or nothing.
    pub name: String,
    /// The socket.
    pub socket: TcpListener,
}

/// Everything that the process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets.
    pub sockets: Vec<Given>,
    /// Whether a service manager holds them too, and will hand them out again.
    pub from_manager: bool,
    /// The way to the predecessor.
    pub link: Option<OwnedFd>,
    /// What operators wanted of the predecessor's endpoints.
    pub orders: Option<OwnedFd>,
    /// Upgrades since the first start, this one included.
    pub upgrades: u64,
}

/// What is wrong with what the process was started with.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Inherited {
    /// Takes over what the environment names, for the process `own_id` whose parent is `parent_id`. Call it once, first
    /// of all.
    ///
    /// # Errors
    /// A variable that makes no sense, or a descriptor that is not a listening socket. Starting without it would leave
    /// clients waiting at a socket that nobody serves.
    pub fn take(variable: impl Fn(&str) -> Option<String>, own_id: u32, parent_id: u32) -> Result<Self, Unusable> {
        if let Some(plan) = Handed::from_variables(&variable, parent_id)? {
            return plan.take();
        }
        let names = managed(&variable, own_id)?;
        let mut inherited = Self { from_manager: !names.is_empty(), ..Self::default() };
        for (at, name) in names.iter().enumerate() {
            let socket = listener(FIRST_DESCRIPTOR + at as RawFd)?;
            let address = bound_to(&socket)?;
            inherited.sockets.push(Given { address, name: name.clone(), socket });
        }
        Ok(inherited)
    }

    /// Takes the sockets out that are for this listener, in the order in which they came: those at its address or under
    /// its name. `[::]` and `0.0.0.0` are both all addresses: a manager binds the former where only a port is given.
    pub fn for_listener(&mut self, address: SocketAddr, name: &str) -> Vec<TcpListener> {
        self.extract(|given| {
            let everywhere = given.address.ip().is_unspecified() && address.ip().is_unspecified();
            let fits = given.address == address || everywhere && given.address.port() == address.port();
            given.name != ADMIN_NAME && (fits || !name.is_empty() && given.name == name)
        })
    }

    /// Takes the socket of the admin API out. Its address must be the configured one, whatever its name says: a manager
    /// cannot open the admin API to strangers by mistake. A manager need not name it.
    pub fn for_admin(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let by_address = self.from_manager;
        let fits = |given: &Given| given.address == address && (by_address || given.name == ADMIN_NAME);
        self.extract(fits).into_iter().next()
    }

    fn extract(&mut self, fits: impl Fn(&Given) -> bool) -> Vec<TcpListener> {
        let (found, left) = std::mem::take(&mut self.sockets).into_iter().partition(fits);
        self.sockets = left;
        Vec::into_iter(found).map(|given| given.socket).collect()
    }

    /// Whether one of the sockets is non-blocking, which a predecessor on epoll needs and one on a ring does not bear.
    pub fn any_nonblocking(&self) -> bool {
        let sockets = self.sockets.iter().filter(|given| given.name != ADMIN_NAME);
        sockets.map(|given| process::is_nonblocking(&given.socket)).any(|answer| answer.unwrap_or(false))
    }
}

/// What a predecessor handed over, by number.
#[derive(Debug, PartialEq, Eq)]
struct Handed {
    sockets: Vec<(RawFd, bool, SocketAddr)>,
    link: RawFd,
    /// None from an older program.
    orders: Option<RawFd>,
    count: u64,
}

impl Handed {
    /// None when this process replaces none: the variables then belong to an ancestor.
    fn from_variables(variable: impl Fn(&str) -> Option<String>, parent_id: u32) -> Result<Option<Self>, Unusable> {
        let from = variable(FROM_VARIABLE).and_then(|text| text.parse::<u32>().ok());
        if from != Some(parent_id) {
            return Ok(None);
        }
        let text = variable(SOCKETS_VARIABLE).unwrap_or_default();
        let wrong = || Unusable(format!("{SOCKETS_VARIABLE}=`{text}` cannot be understood"));
        let entry = |entry: &str| -> Option<(RawFd, bool, SocketAddr)> {
            let (number, address) = entry.split_once('=')?;
            let (admin, address) = match address.split_once('@') {
                Some((ADMIN_NAME, address)) => (true, address),
                Some(_) => return None,
                None => (false, address),
            };
            Some((number.parse().ok()?, admin, address.parse().ok()?))
        };
        let entries = text.split(',').filter(|entry| !entry.is_empty()).take(SOCKETS_MAX);
        let sockets: Option<Vec<_>> = entries.map(entry).collect();
        let link = variable(LINK_VARIABLE).and_then(|text| text.parse().ok());
        let orders = variable(ORDERS_VARIABLE).and_then(|text| text.parse().ok());
        let count = variable(COUNT_VARIABLE).and_then(|text| text.parse().ok()).unwrap_or(1);
        let (sockets, link) = sockets.zip(link).ok_or_else(wrong)?;
        Ok(Some(Self { sockets, link, orders, count }))
    }

    fn take(self) -> Result<Inherited, Unusable> {
        let link = process::take_inherited(self.link);
        let link = link.map_err(|error| Unusable(format!("descriptor {} is no way back: {error}", self.link)))?;
        let orders = self.orders.map(process::take_inherited).transpose();
        let orders = orders.map_err(|error| Unusable(format!("the orders about endpoints are not there: {error}")))?;
        let mut sockets = Vec::new();
        for (number, admin, address) in self.sockets {
            let name = if admin { ADMIN_NAME.to_owned() } else { String::new() };
            sockets.push(Given { address, name, socket: listener(number)? });
        }
        Ok(Inherited { sockets, from_manager: false, link: Some(link), orders, upgrades: self.count })
    }
}

/// The names of a manager's sockets, in the order of their descriptors; none when they are for another process.
fn managed(variable: impl Fn(&str) -> Option<String>, own_id: u32) -> Result<Vec<String>, Unusable> {
    let number = |name: &str| -> Result<Option<u64>, Unusable> {
        let Some(text) = variable(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Unusable(format!("{name}=`{text}` is not a number")))
    };
    if number("LISTEN_PID")? != Some(u64::from(own_id)) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS")?.unwrap_or(0);
    if count > SOCKETS_MAX as u64 {
        return Err(Unusable(format!("LISTEN_FDS={count} is more than the {SOCKETS_MAX} sockets that can be taken")));
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    Ok((0..count).map(|_| names.next().unwrap_or_default()).collect())
}

fn listener(number: RawFd) -> Result<TcpListener, Unusable> {
    let taken = process::take_inherited(number);
    let socket =
        taken.map_err(|error| Unusable(format!("descriptor {number} was promised and is not there: {error}")))?;
    let is_listening = {
        let socket = SockRef::from(&socket);
        socket.is_listener().unwrap_or(false) && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
    };
    match is_listening {
        true => Ok(TcpListener::from(socket)),
        false => Err(Unusable(format!("descriptor {number} is not a listening stream socket"))),
    }
}

fn bound_to(socket: &TcpListener) -> Result<SocketAddr, Unusable> {
    let number = socket.as_raw_fd();
    socket.local_addr().map_err(|_| Unusable(format!("descriptor {number} is not a socket of TCP")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(all: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        |name| all.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn a_managers_sockets_are_counted_and_named() {
        let names = |all| managed(variables(all), 42);
        assert_eq!(names(&[]), Ok(Vec::new()));
        assert_eq!(names(&[("LISTEN_PID", "41"), ("LISTEN_FDS", "2")]), Ok(Vec::new()), "for another process");
        assert_eq!(
            names(&[("LISTEN_PID", "42"), ("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "web:admin")]),
            Ok(vec!["web".into(), "admin".into(), String::new()])
        );
        assert!(names(&[("LISTEN_PID", "42"), ("LISTEN_FDS", "many")]).is_err());
        assert!(names(&[("LISTEN_PID", "42"), ("LISTEN_FDS", "99999999")]).is_err());
        assert!(names(&[("LISTEN_PID", "me")]).is_err());
    }

    #[test]
    fn only_the_child_of_the_predecessor_takes_its_sockets() {
        let all = &[
            (FROM_VARIABLE, "7"),
            (SOCKETS_VARIABLE, "5=127.0.0.1:80,6=[::1]:0,9=admin@127.0.0.1:9901"),
            (LINK_VARIABLE, "11"),
            (ORDERS_VARIABLE, "12"),
            (COUNT_VARIABLE, "3"),
        ];
        assert_eq!(Handed::from_variables(variables(all), 8), Ok(None));
        let handed = Handed::from_variables(variables(all), 7).expect("sense").expect("ours");
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let sockets = vec![
            (5, false, address("127.0.0.1:80")),
            (6, false, address("[::1]:0")),
            (9, true, address("127.0.0.1:9901")),
        ];
        assert_eq!(handed, Handed { sockets, link: 11, orders: Some(12), count: 3 });
    }

    #[test]
    fn nonsense_is_refused() {
        for sockets in ["5", "x=127.0.0.1:80", "5=127.0.0.1", "5=root@127.0.0.1:1", "5=127.0.0.1:80,,6=?"] {
            let variable = |name: &str| match name {
                FROM_VARIABLE => Some("7".to_owned()),
                SOCKETS_VARIABLE => Some(sockets.to_owned()),
                LINK_VARIABLE => Some("11".to_owned()),
                _ => None,
            };
            assert!(Handed::from_variables(variable, 7).is_err(), "{sockets}");
        }
        let no_link = &[(FROM_VARIABLE, "7"), (SOCKETS_VARIABLE, "")];
        assert!(Handed::from_variables(variables(no_link), 7).is_err());
    }

    #[test]
    fn sockets_are_found_by_address_or_name() {
        let socket = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let given = |at: &str, name: &str| Given { address: address(at), name: name.into(), socket: socket() };
        let sockets = vec![
            given("127.0.0.1:80", ""),
            given("127.0.0.1:81", "web"),
            given("127.0.0.1:80", ""),
            given("[::]:82", ""),
            given("127.0.0.1:80", ADMIN_NAME),
            given("127.0.0.1:83", ""),
        ];
        let mut inherited = Inherited { sockets, ..Inherited::default() };
        assert!(inherited.for_admin(address("127.0.0.1:83")).is_none());
        inherited.from_manager = true;
        assert!(inherited.for_admin(address("127.0.0.1:83")).is_some());
        assert_eq!(inherited.for_listener(address("127.0.0.1:80"), "").len(), 2);
        assert_eq!(inherited.for_listener(address("127.0.0.1:80"), ADMIN_NAME).len(), 0);
        assert_eq!(inherited.for_listener(address("0.0.0.0:82"), "").len(), 1);
        assert!(inherited.for_admin(address("0.0.0.0:80")).is_none());
        assert!(inherited.for_admin(address("127.0.0.1:80")).is_some());
        assert_eq!(inherited.for_listener(address("127.0.0.1:99"), "web").len(), 1);
        assert!(inherited.sockets.is_empty());
    }
}
