//! Answers that are not the rotator's to the live request. Whatever they are, nothing is set.

use std::time::Duration;

use axum::response::Response;
use keyturn_agent::accounts::file::Faults;
use keyturn_agent::{Agent, Deps};
use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use keyturn_schemas::result::{self, Answer, Code, Enclosed};
use keyturn_schemas::seal::{self, Binding};
use keyturn_schemas::signing::SigningKey;

use crate::server::world::{Forgery, Genuine, PollTrick};
use crate::server::{Server, answer, log, random};

fn jose(text: impl Into<axum::body::Body>) -> Response {
    answer(200, "application/jose", text)
}

fn signed(genuine: &Genuine<'_>, change: impl FnOnce(&mut Answer)) -> Response {
    let mut altered = genuine.answer.clone();
    change(&mut altered);
    jose(result::sign(&altered, &genuine.keys.signing).unwrap())
}

/// The genuine password, sealed anew under another binding.
fn resealed(genuine: &Genuine<'_>, binding: Binding) -> Option<Enclosed> {
    let epk = genuine.epk?;
    let sealed = seal::seal(&Password::new(genuine.password.clone()), &binding, &epk).unwrap();
    Some(Enclosed::new(binding.version, epk.thumbprint(), &sealed))
}

fn binding(genuine: &Genuine<'_>) -> Binding {
    let version = genuine.answer.enclosed.as_ref().unwrap().version;
    Binding { rid: genuine.answer.rid, lane: genuine.answer.lane, version }
}

fn unknown_key(genuine: &Genuine<'_>) -> Response {
    let stranger = SigningKey::from_seed("stranger", &[9; 32]).unwrap();
    jose(result::sign(&genuine.answer, &stranger).unwrap())
}

fn borrowed_name(genuine: &Genuine<'_>) -> Response {
    let stranger = SigningKey::from_seed(genuine.keys.signing.kid(), &[9; 32]).unwrap();
    jose(result::sign(&genuine.answer, &stranger).unwrap())
}

fn root_key(genuine: &Genuine<'_>) -> Response {
    jose(result::sign(&genuine.answer, &genuine.keys.root).unwrap())
}

fn other_request(genuine: &Genuine<'_>) -> Response {
    let rid = RequestId(random());
    let enclosed = resealed(genuine, Binding { rid, ..binding(genuine) });
    signed(genuine, |answer| (answer.rid, answer.enclosed) = (rid, enclosed))
}

fn other_lane(genuine: &Genuine<'_>) -> Response {
    let lane = LaneId(random());
    let enclosed = resealed(genuine, Binding { lane, ..binding(genuine) });
    signed(genuine, |answer| (answer.lane, answer.enclosed) = (lane, enclosed))
}

fn other_deployment(genuine: &Genuine<'_>) -> Response {
    signed(genuine, |answer| answer.deployment = "fabrikam".parse().unwrap())
}

fn other_version(genuine: &Genuine<'_>) -> Response {
    let mut enclosed = genuine.answer.enclosed.clone();
    enclosed.as_mut().unwrap().version = VersionId(random());
    signed(genuine, |answer| answer.enclosed = enclosed)
}

fn other_key(genuine: &Genuine<'_>) -> Response {
    let (_, epk) = seal::generate().unwrap();
    let bound = binding(genuine);
    let sealed = seal::seal(&Password::new(genuine.password.clone()), &bound, &epk).unwrap();
    signed(genuine, |answer| answer.enclosed = Some(Enclosed::new(bound.version, epk.thumbprint(), &sealed)))
}

fn other_key_with_our_thumbprint(genuine: &Genuine<'_>) -> Response {
    let (_, epk) = seal::generate().unwrap();
    let bound = binding(genuine);
    let sealed = seal::seal(&Password::new(genuine.password.clone()), &bound, &epk).unwrap();
    let ours = genuine.epk.unwrap().thumbprint();
    signed(genuine, |answer| answer.enclosed = Some(Enclosed::new(bound.version, ours, &sealed)))
}

fn no_version(genuine: &Genuine<'_>) -> Response {
    signed(genuine, |answer| answer.enclosed = None)
}

fn recorded(genuine: &Genuine<'_>) -> Response {
    signed(genuine, |answer| answer.code = Code::Recorded)
}

fn unsigned(genuine: &Genuine<'_>) -> Response {
    let (head, _) = genuine.text.rsplit_once('.').unwrap();
    jose(format!("{head}."))
}

fn truncated(genuine: &Genuine<'_>) -> Response {
    jose(genuine.text[..genuine.text.len() / 2].to_owned())
}

fn altered(genuine: &Genuine<'_>) -> Response {
    let mut parts: Vec<String> = genuine.text.split('.').map(str::to_owned).collect();
    let last = parts[1].pop().unwrap();
    parts[1].push(if last == 'A' { 'B' } else { 'A' });
    jose(parts.join("."))
}

/// Genuine but for its size.
fn ten_mebibytes(genuine: &Genuine<'_>) -> Response {
    jose(genuine.text.clone() + &"\n".repeat(10 * 1024 * 1024))
}

fn html(_: &Genuine<'_>) -> Response {
    answer(200, "text/html", "<h1>Welcome</h1>")
}

fn not_text(_: &Genuine<'_>) -> Response {
    jose(vec![0xff; 100])
}

fn mislabelled(genuine: &Genuine<'_>) -> Response {
    answer(200, "text/plain", genuine.text.clone())
}

fn redirect(genuine: &Genuine<'_>) -> Response {
    let mut response = answer(302, "application/jose", genuine.text.clone());
    response.headers_mut().insert("location", "/elsewhere".parse().unwrap());
    response
}

const FORGERIES: [(&str, Forgery); 19] = [
    ("unknown key", unknown_key),
    ("a stranger's key with a known name", borrowed_name),
    ("the root key, which signs key sets only", root_key),
    ("another request", other_request),
    ("another lane", other_lane),
    ("another deployment", other_deployment),
    ("another version", other_version),
    ("another ephemeral key", other_key),
    ("another ephemeral key under our thumbprint", other_key_with_our_thumbprint),
    ("no version", no_version),
    ("a report's code", recorded),
    ("unsigned", unsigned),
    ("truncated", truncated),
    ("altered", altered),
    ("10 MiB", ten_mebibytes),
    ("HTML", html),
    ("not text", not_text),
    ("mislabelled", mislabelled),
    ("redirect", redirect),
];

#[tokio::test]
async fn nothing_is_set_however_long_it_goes_on() {
    for (name, forgery) in FORGERIES {
        let server = Server::start().await;
        server.world().on_poll.push_back(PollTrick::Forge(forgery));
        server.world().sticky = true;
        let mut settings = server.settings();
        settings.wait = Duration::from_millis(300);
        let agent = Agent::new(settings, Deps::system(server.account(Faults::default()))).unwrap();
        let error = agent.once().await.unwrap_err();
        assert_eq!(error.code(), "no_answer", "{name}: {error}");
        assert_eq!(server.real(), None, "{name}");
        assert!(server.journal().in_doubt.is_empty(), "{name}: {:?}", server.journal());
    }
}

#[tokio::test]
async fn the_genuine_answer_behind_the_forged_ones_is_found() {
    let server = Server::start().await;
    server.world().on_poll.extend(FORGERIES.map(|(_, forgery)| PollTrick::Forge(forgery)));
    let mut settings = server.settings();
    settings.timing.patience = Duration::from_millis(10);
    let agent = Agent::new(settings, Deps::system(server.account(Faults::default()))).unwrap();
    assert!(agent.once().await.unwrap().is_success());
    server.check_settled();
    let rid = RequestId::of(&server.world().posts[0]).to_string();
    let warned = log().lines().filter(|line| line.contains("event.id=1202") && line.contains(&rid)).count();
    assert_eq!(warned, 1, "one line for a request, however many answers are forged");
}

#[tokio::test]
async fn a_member_that_nobody_knows_is_ignored() {
    // Room for additions: an older agent must be able to read a newer server.
    let server = Server::start().await;
    server.world().on_poll.push_back(PollTrick::Forge(with_extra_member));
    assert!(server.agent().once().await.unwrap().is_success());
    server.check_settled();
}

fn with_extra_member(genuine: &Genuine<'_>) -> Response {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let header = genuine.text.split('.').next().unwrap();
    let mut payload = serde_json::to_value(&genuine.answer).unwrap();
    payload["run"] = "calc.exe".into();
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(genuine.keys.signing.sign(input.as_bytes()));
    jose(format!("{input}.{signature}"))
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_acted_on() {
    let server = Server::start().await;
    server.world().on_poll.push_back(PollTrick::Pending);
    server.world().sticky = true;
    let mut settings = server.settings();
    settings.wait = Duration::from_millis(100);
    let agent = Agent::new(settings, Deps::system(server.account(Faults::default()))).unwrap();
    assert_eq!(agent.once().await.unwrap_err().code(), "no_answer");
    assert_eq!(server.real(), None);
}
