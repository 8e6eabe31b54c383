use super::*;

fn standing() -> Standing {
    Standing { name: "vault", needed: false, state: State::Unasked, failing: None }
}

fn failure(why: &str) -> Result<(), String> {
    Err(why.to_owned())
}

#[test]
fn one_failure_among_successes_changes_nothing() {
    let mut one = standing();
    for at in 0..20 {
        let said = if at % 2 == 0 { Ok(()) } else { failure("no") };
        assert_eq!(one.note(said, UnixMillis(at), 2), Change::None, "{at}");
        assert_eq!(one.state, State::Up { since: UnixMillis(0) });
    }
}

#[test]
fn it_is_away_since_its_first_failure_and_back_at_its_first_answer() {
    let mut one = standing();
    assert_eq!(one.note(Ok(()), UnixMillis(1_000), 3), Change::None);
    assert_eq!(one.note(failure("a"), UnixMillis(2_000), 3), Change::None);
    assert_eq!(one.note(failure("b"), UnixMillis(3_000), 3), Change::None);
    assert_eq!(one.note(failure("c"), UnixMillis(4_000), 3), Change::Left);
    assert_eq!(one.line(), "vault (can be waited for): away since 1970-01-01T00:00:02Z: c\n");
    assert_eq!(one.note(failure("d\nstate: up"), UnixMillis(5_000), 3), Change::None);
    assert_eq!(one.line(), "vault (can be waited for): away since 1970-01-01T00:00:02Z: d state: up\n");
    assert_eq!(
        one.note(Ok(()), UnixMillis(9_000), 3),
        Change::Back { after: Duration::from_secs(7) },
        "since the first failure"
    );
    assert_eq!(one.note(failure("e"), UnixMillis(10_000), 3), Change::None, "it counts anew");
    assert_eq!(one.line(), "vault (can be waited for): up since 1970-01-01T00:00:09Z\n");
}

#[test]
fn who_was_never_there_is_away_as_well() {
    let mut one = standing();
    assert_eq!(one.note(failure("a"), UnixMillis(0), 2), Change::None);
    assert_eq!(one.line(), "vault (can be waited for): not known yet\n");
    assert_eq!(one.note(failure("b"), UnixMillis(10_000), 2), Change::Left);
}

#[test]
fn only_what_is_needed_makes_a_process_unready() {
    let all = Standings::default();
    let state = Standing { name: "state", needed: true, ..standing() };
    *all.lock() = vec![state, standing()];
    assert!(!all.tell().0, "what is needed was not asked yet");
    all.note("state", Ok(()), UnixMillis(0), 1);
    assert!(all.tell().0);
    all.note("vault", failure("gone"), UnixMillis(0), 1);
    let (ready, told) = all.tell();
    assert!(ready && told.contains("away since") && told.contains("gone"), "{told}");
    all.note("state", failure("gone too"), UnixMillis(0), 1);
    assert!(!all.tell().0 && all.is_away("state") && !all.is_away("queue_requests"));
}
