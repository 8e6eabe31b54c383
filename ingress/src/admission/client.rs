//! Who a request comes from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderName};
use keyturn_domain::network::{Client, Network};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client: the peer of the connection, or, if that is a trusted proxy, the last hop in `X-Forwarded-For`, which
/// is the one that the proxy itself has written. What stands before it, anybody may have written.
pub(super) fn of(request: &Request, trusted: &[Network]) -> Client {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let told = trusted.iter().any(|network| network.holds(peer)).then(|| last_hop(request.headers()));
    Client::at(told.flatten().unwrap_or(peer))
}

fn last_hop(headers: &HeaderMap) -> Option<IpAddr> {
    let hops = headers.get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    let last = hops.rsplit(',').next()?.trim();
    let socket = || last.parse::<SocketAddr>().map(|socket| socket.ip());
    last.parse().or_else(|_| socket()).ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn client(peer: &str, trusted: &str, hops: &[&str]) -> Client {
        let mut request = Request::new(Body::empty());
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        request.extensions_mut().insert(ConnectInfo(peer));
        for hop in hops {
            request.headers_mut().append(FORWARDED_FOR, hop.parse().unwrap());
        }
        of(&request, &[trusted.parse().unwrap()])
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_about_its_own_hop() {
        for (peer, hops, expected) in [
            ("203.0.113.9", &["192.0.2.1"][..], "203.0.113.9"),
            ("10.1.1.1", &[], "10.1.1.1"),
            ("10.1.1.1", &["192.0.2.1"], "192.0.2.1"),
            ("10.1.1.1", &["198.51.100.1, 192.0.2.1"], "192.0.2.1"),
            ("10.1.1.1", &["198.51.100.1", "192.0.2.1"], "192.0.2.1"),
            ("10.1.1.1", &["192.0.2.1:4711"], "192.0.2.1"),
            ("10.1.1.1", &["[2001:db8::1]:4711"], "2001:db8::"),
            ("10.1.1.1", &["192.0.2.1, unknown"], "10.1.1.1"),
            ("::ffff:10.1.1.1", &["192.0.2.1"], "192.0.2.1"),
        ] {
            assert_eq!(client(peer, "10.0.0.0/8", hops).to_string(), expected, "{peer} {hops:?}");
        }
    }
}
