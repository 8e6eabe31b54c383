//! The contracts of the ports, in executable form: one suite per port, run against every adapter.
//!
//! An adapter implements [`Subject`] on a type that owns a fresh deployment and writes one line per suite in its
//! tests, such as `keyturn_testkit::conformance!(queue, Fresh);`, which becomes one test per case. The cases use
//! nothing but the ports, so what only one engine can be asked is tested beside that engine.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case is a test that lives in a library: it fails by panicking"
)]

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::clock::ManualClock;

pub mod audit;
pub mod chores;
pub mod dead_letters;
pub mod directory;
pub mod graveyard;
pub mod intake;
pub mod ledger;
pub mod letter_jobs;
pub mod queue;
pub mod results;
pub mod roster;
pub mod rotations;
pub mod sample;
pub mod shipping;
pub mod turns;
pub mod vault;

/// A deployment of its own for one case.
pub trait Subject: Sized {
    /// What implements the port.
    type Engine;

    /// An empty deployment that goes by a clock ticked by hand.
    fn fresh() -> impl Future<Output = Self>;

    /// What implements the port.
    fn engine(&self) -> &Self::Engine;

    /// Its clock.
    fn clock(&self) -> &ManualClock;
}

/// Long enough that only something that never happens takes longer.
const NEVER: Duration = Duration::from_secs(30);

/// Polls `waiting` once, so that it has begun to wait, then does `meanwhile` and awaits the rest. Returns whether
/// the wait ended.
async fn woken_by(waiting: impl Future<Output = ()>, meanwhile: impl Future<Output = ()>) -> bool {
    let mut waiting = pin!(waiting);
    let over = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())).await;
    meanwhile.await;
    over || tokio::time::timeout(NEVER, waiting).await.is_ok()
}

/// Writes one test for each case of a suite: `conformance!(queue, Fresh)`, where `Fresh` is a [`Subject`].
#[macro_export]
macro_rules! conformance {
    (audit, $subject:ty) => {
        $crate::conformance!(@cases audit, $subject, [
            rows_are_numbered_from_one,
            recent_rows_come_newest_first,
            wanted_rows_are_those_of_which_all_holds,
            an_unknown_action_is_not_appended,
            pages_come_oldest_first,
            a_probe_leaves_no_row,
            an_untouched_chain_is_intact,
        ]);
    };
    (chores, $subject:ty) => {
        $crate::conformance!(@cases chores, $subject, [
            a_turn_is_taken_by_one,
            the_last_report_is_kept,
        ]);
    };
    (dead_letters, $subject:ty) => {
        $crate::conformance!(@cases dead_letters, $subject, [
            a_dead_letter_moves_alone_and_unchanged,
            the_last_eight_attempts_are_kept,
            letters_are_listed_newest_first,
            a_void_receipt_buries_nothing,
            a_replay_moves_a_letter_once,
            a_replay_repeated_moves_nothing,
        ]);
    };
    (graveyard, $subject:ty) => {
        $crate::conformance!(@cases graveyard, $subject, [
            what_died_elsewhere_is_listed_and_replayed,
            what_is_buried_twice_is_there_once,
        ]);
    };
    (letter_jobs, $subject:ty) => {
        $crate::conformance!(@cases letter_jobs, $subject, [
            pages_join,
            a_job_is_read_as_begun,
            letters_move_once,
            a_discard_sends_nothing,
            a_pace_is_kept,
        ]);
    };
    (directory, $subject:ty) => {
        $crate::conformance!(@cases directory, $subject, [
            answers_come_in_order_and_say_when,
            putting_replaces,
            groups_are_part_of_a_record,
            who_is_in_a_group_changes_alone,
            enabling_changes_one_property,
            pages_follow_each_other,
            names_are_found_in_any_case,
        ]);
    };
    (intake, $subject:ty) => {
        $crate::conformance!(@cases intake, $subject, [
            accepted_messages_are_on_the_queue,
            a_message_is_accepted_once,
            a_message_twice_in_one_batch_is_accepted_once,
        ]);
    };
    (ledger, $subject:ty) => {
        $crate::conformance!(@cases ledger, $subject, [
            an_unknown_device_has_nothing,
            a_commit_is_loaded_whole,
            a_stale_revision_changes_nothing,
            a_message_takes_effect_once,
            commits_of_one_lane_follow_each_other,
            a_conflict_stops_only_itself,
            a_reused_mark_is_noticed,
            a_mark_is_remembered_with_its_lane,
            several_versions_are_issued_at_once,
            versions_belong_to_their_lane,
            a_commit_without_a_lane_takes_effect,
            timelines_are_newest_first,
            facts_of_all_devices_are_paged,
            devices_are_paged,
            labels_are_found_in_any_case,
            forcing_reaches_open_lanes,
            closing_reaches_its_lane_alone,
            releasing_ends_holds,
            a_version_is_relocated_from_where_it_was,
            keys_are_known_by_their_lanes,
        ]);
    };
    (queue, $subject:ty) => {
        $crate::conformance!(@queue cases $subject, [
            a_clock_set_back_hides_nothing_for_good,
            a_lease_that_ran_out_holds_until_taken,
        ]);
    };
    // The same for a service whose leases are void when they have run out, whether or not somebody else has the
    // message.
    (queue_with_strict_leases, $subject:ty) => {
        $crate::conformance!(@queue cases $subject, [a_clock_set_back_hides_nothing_for_good]);
    };
    // The same for a service that goes by a clock of its own and takes long to start: one test, in which each case has
    // a `deployment()` of what `start()` gave.
    (queue_on_one_server, $server:ty) => {
        $crate::conformance!(@queue on_one $server, [a_lease_that_ran_out_holds_until_taken]);
    };
    (@queue $how:ident $subject:ty, [$($more:ident),* $(,)?]) => {
        $crate::conformance!(@$how queue, $subject, [
            a_message_is_leased_as_sent,
            queues_are_apart,
            at_most_max_are_leased,
            a_leased_message_is_hidden,
            a_lease_that_ran_out_is_given_to_the_next,
            a_renewed_lease_lasts,
            completing_twice_is_void,
            strange_receipts_are_void,
            a_retry_comes_back_after_its_delay,
            a_release_does_not_count,
            forwards_come_with_the_completion,
            forwards_of_void_receipts_are_sent,
            depth_tells_what_is_there,
            arrival_resolves_when_a_message_is_sent,
            next_leases_what_is_there,
            next_ends_with_what_is_sent_while_it_waits,
            next_finds_what_becomes_visible,
            next_that_was_dropped_keeps_nothing,
            arrival_resolves_when_a_lease_runs_out,
            $($more,)*
        ]);
    };
    (results, $subject:ty) => {
        $crate::conformance!(@cases results, $subject, [
            a_published_result_is_read,
            the_first_result_stands,
            a_version_outstanding_is_published,
            a_version_no_longer_outstanding_is_not,
            an_expired_result_is_absent,
            elements_are_judged_one_by_one,
            publication_resolves_when_a_result_is_published,
        ]);
    };
    (rotations, $subject:ty) => {
        $crate::conformance!(@cases rotations, $subject, [
            a_job_is_read_as_begun,
            steps_ask_each_device_once,
            a_pace_is_kept,
            devices_are_found_by_their_versions,
        ]);
    };
    (shipping, $subject:ty) => {
        $crate::conformance!(@cases shipping, $subject, [
            a_stream_begins_before_its_first_row,
            a_cursor_moves_for_its_holder_alone,
            a_cursor_is_given_to_another_when_its_time_is_over,
            a_cursor_moves_forward_from_where_it_is,
            streams_are_apart,
            what_was_not_shipped_stays,
        ]);
    };
    (roster, $subject:ty) => {
        $crate::conformance!(@cases roster, $subject, [
            a_round_is_filed_page_by_page,
            one_reads_at_a_time_and_another_goes_on,
            what_was_filed_is_not_filed_again,
            a_round_from_the_beginning_ends_in_what_was_seen,
            what_changed_is_told_by_its_step,
            a_device_with_two_objects_is_told_as_such,
        ]);
    };
    (turns, $subject:ty) => {
        $crate::conformance!(@cases turns, $subject, [
            turns_follow_each_other,
            buckets_are_apart,
            the_horizon_bounds_what_is_booked,
            no_turn_is_given_twice,
            a_clock_set_back_ends_in_a_pause,
        ]);
    };
    (vault, $subject:ty) => {
        $crate::conformance!(@cases vault, $subject, [
            a_version_is_read_back,
            another_lane_is_refused,
            what_is_not_there_is_none,
            the_first_version_of_a_message_is_found,
            a_repeated_put_stores_once,
            history_is_newest_first,
        ]);
    };
    (@on_one $suite:ident, $server:ty, [$($case:ident,)*]) => {
        #[tokio::test]
        async fn the_contract_is_kept() {
            let server = <$server>::start().await;
            $(
                println!(stringify!($case));
                $crate::conformance::$suite::$case(&server.deployment()).await;
            )*
        }
    };
    (@cases $suite:ident, $subject:ty, [$($case:ident,)*]) => {
        mod $suite {
            use super::*;

            $(
                #[tokio::test]
                async fn $case() {
                    let subject = <$subject as $crate::conformance::Subject>::fresh().await;
                    $crate::conformance::$suite::$case(&subject).await;
                }
            )*
        }
    };
}
