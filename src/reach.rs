//! Where calls that tenants ask for may lead: the public internet, and what the operator has opened besides. A name is looked
//! up once, and only what was looked at is connected to, so that no second answer of a name server leads elsewhere.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};
use tokio::sync::Semaphore;

use crate::error::Error;

/// Names that are looked up at a time: each takes a thread until the name servers answer or give up.
const LOOKUPS: usize = 32;

/// What is not the public internet, though IPv4 has addresses for it. With what 6to4, AS112 and protocols keep for themselves,
/// and the address at which Azure tells a machine about itself.
const CLOSED_V4: [([u8; 4], u8); 16] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([168, 63, 129, 16], 32),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// All that is given out as public by IPv6. Outside of it lie loopback, private and link-local addresses, and every way but
/// two to write an IPv4 address as one.
const OPEN_V6: Network = Network::v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
/// What is not public within that: protocols (Teredo), documentation, 6to4, documentation again.
const CLOSED_V6: [Network; 4] = [
    Network::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    Network::v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    Network::v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    Network::v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

/// Whether an address is one of the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !CLOSED_V4
            .iter()
            .any(|(first, bits)| Network::v4(*first, *bits).has(address.into())),
        IpAddr::V6(address) => {
            // ISATAP, which hides an IPv4 address in the last part of any network's.
            let is_tunnel = matches!(address.segments()[4..6], [0 | 0x200, 0x5efe]);
            let is_in = |network: &Network| network.has(address.into());
            is_in(&OPEN_V6) && !is_tunnel && !CLOSED_V6.iter().any(is_in)
        }
    }
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

impl Network {
    const fn v4(first: [u8; 4], bits: u8) -> Self {
        let first = IpAddr::V4(Ipv4Addr::from_octets(first));
        Self { first, bits }
    }

    const fn v6(first: [u16; 8], bits: u8) -> Self {
        let first = IpAddr::V6(Ipv6Addr::from_segments(first));
        Self { first, bits }
    }

    /// Whether `address` is in it. An IPv4 address that is written as one of IPv6 is in none of IPv4.
    fn has(&self, address: IpAddr) -> bool {
        let differ = match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(other)) => (first.to_bits() ^ other.to_bits())
                .checked_shr(32 - u32::from(self.bits))
                .map(u128::from),
            (IpAddr::V6(first), IpAddr::V6(other)) => {
                (first.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.bits))
            }
            _ => Some(1),
        };
        // A network of no bits is all there is.
        differ.unwrap_or(0) == 0
    }
}

/// What an operator opens: `intranet.example.com`, `*.example.com`, `10.1.2.3`, `10.0.0.0/8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// A host, at whatever address.
    Host(String),
    /// All hosts below a name.
    Below(String),
    /// Addresses.
    Network(Network),
}

impl FromStr for Opening {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str =
            "a host (intranet.example.com, *.example.com) or a network (10.0.0.0/8, fd00::/8)";
        let (first, bits) = match text.split_once('/') {
            Some((first, bits)) => (first, Some(bits)),
            None => (text, None),
        };
        if let Ok(first) = first.parse::<IpAddr>() {
            let most = if first.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(most), |bits| bits.parse().ok());
            let bits = bits.filter(|bits| *bits <= most);
            let network = bits.map(|bits| Network { first, bits });
            return network.map(Self::Network).ok_or_else(|| WANTED.to_owned());
        }
        let name = text.to_ascii_lowercase();
        let (is_below, name) = match name.strip_prefix("*.") {
            Some(name) => (true, name.to_owned()),
            None => (false, name),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(fits) {
            return Err(WANTED.to_owned());
        }
        Ok(if is_below {
            Self::Below(format!(".{name}"))
        } else {
            Self::Host(name)
        })
    }
}

impl<'de> Deserialize<'de> for Opening {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Which addresses a name has.
type Tell = dyn Fn(&str) -> Vec<IpAddr> + Send + Sync;

/// Who says which addresses a name has.
#[derive(Clone, Default)]
pub enum Names {
    /// The machine.
    #[default]
    System,
    /// A test.
    Told(Arc<Tell>),
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

/// Where calls that tenants ask for may lead. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reach {
    opened: Arc<[Opening]>,
    names: Names,
    lookups: Arc<Semaphore>,
}

/// A host is unknown, or where it leads is closed. Which of the two is nobody's business outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is unknown, or leads to addresses that are not public and that the operator has not opened (--outbound-allow)"
)]
pub struct Refused;

impl Refused {
    /// As callers are told who named the host.
    pub fn at(self, host: &str) -> Error {
        Error::invalid(CLOSED, format!("{host} can't be called: {self}"))
    }
}

/// The code of what may not be called.
pub const CLOSED: &str = "address_refused";

impl Reach {
    /// The public internet, and what is opened besides.
    pub fn new(opened: Vec<Opening>) -> Self {
        Self {
            opened: opened.into(),
            names: Names::System,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }

    /// The same, with these opened besides.
    #[must_use]
    pub fn opening(&self, more: impl IntoIterator<Item = Opening>) -> Self {
        let opened = self.opened.iter().cloned().chain(more);
        Self {
            opened: opened.collect(),
            ..self.clone()
        }
    }

    /// The same, with names looked up there.
    #[must_use]
    pub fn named_by(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// The addresses of `host`, a name or an address, that may be connected to: at least one.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Refused> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            let may = self.is_open(address);
            return may.then(|| vec![address]).ok_or(Refused);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let mut found = self.look_up(name.clone()).await?;
        let is_opened = self.opened.iter().any(|opening| match opening {
            Opening::Host(host) => *host == name,
            Opening::Below(end) => name.ends_with(end),
            Opening::Network(_) => false,
        });
        if !is_opened {
            found.retain(|address| self.is_open(*address));
        }
        if found.is_empty() {
            return Err(Refused);
        }
        Ok(found)
    }

    fn is_open(&self, address: IpAddr) -> bool {
        let opens = |opening: &Opening| matches!(opening, Opening::Network(network) if network.has(address));
        is_public(address) || self.opened.iter().any(opens)
    }

    async fn look_up(&self, name: String) -> Result<Vec<IpAddr>, Refused> {
        let tell = match &self.names {
            Names::Told(tell) => return Ok(tell(&name)),
            Names::System => self.lookups.clone().acquire_owned(),
        };
        let place = tell.await.map_err(|_| Refused)?;
        // Whoever asked may be gone before there is an answer: the place is the thread's.
        let look = move || {
            let _place = place;
            let found = (name.as_str(), 0).to_socket_addrs();
            found.map(|found| found.map(|address| address.ip()).collect())
        };
        let found = tokio::task::spawn_blocking(look).await;
        found.map_err(|_| Refused)?.map_err(|_| Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for closed in [
            "0.0.0.0",
            "10.1.2.3",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.192",
            "192.88.99.1",
            "192.168.0.1",
            "198.19.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2606:4700::200:5efe:7f00:1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(closed.parse().unwrap()), "{closed}");
        }
    }

    #[test]
    fn an_operator_opens_hosts_and_networks() {
        for (text, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "127.0.0.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("fd00::/8", "fd12::1", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "::ffff:127.0.0.1", false),
        ] {
            let Ok(Opening::Network(network)) = text.parse() else {
                panic!("{text}")
            };
            assert_eq!(
                network.has(address.parse().unwrap()),
                is_in,
                "{text} {address}"
            );
        }
        let host = Ok(Opening::Host("db.example.com".to_owned()));
        assert_eq!("DB.example.com".parse(), host);
        let below = Ok(Opening::Below(".example.com".to_owned()));
        assert_eq!("*.example.com".parse(), below);
        for bad in [
            "",
            "*",
            "*.",
            "10.0.0.0/33",
            "::/129",
            "http://a",
            "a/8",
            "a:80",
        ] {
            assert!(bad.parse::<Opening>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_is_connected_to_is_what_was_looked_at() {
        let told = |name: &str| match name {
            "mixed.test" => vec!["127.0.0.1".parse().unwrap(), "8.8.8.8".parse().unwrap()],
            "inside.test" | "a.open.test" | "open.test" => vec!["10.0.0.1".parse().unwrap()],
            _ => Vec::new(),
        };
        let reach = Reach::new(vec!["*.open.test".parse().unwrap()]);
        let reach = reach.named_by(Names::Told(Arc::new(told)));
        let public: IpAddr = "8.8.8.8".parse().unwrap();
        assert_eq!(reach.addresses("mixed.test").await, Ok(vec![public]));
        assert_eq!(reach.addresses("8.8.8.8").await, Ok(vec![public]));
        assert!(reach.addresses("A.Open.test.").await.is_ok());
        for closed in [
            "inside.test",
            "open.test",
            "nowhere.test",
            "127.0.0.1",
            "[::1]",
        ] {
            assert_eq!(reach.addresses(closed).await, Err(Refused), "{closed}");
        }
    }
}
