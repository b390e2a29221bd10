//! The contract, sentence by sentence, on every engine. A case takes a server with
//! an empty database and may do with it what it likes.

mod lists;
mod messages;
mod sessions;
mod users;

/// Makes a test of every case for every engine.
macro_rules! on_every_engine {
    ($($module:ident { $($case:ident,)* })*) => {
        mod sqlite {
            $($(
                #[tokio::test]
                async fn $case() {
                    use crate::support::{Database, Engine, Server};
                    let database = Database::new(Engine::Sqlite);
                    super::$module::$case(Server::start(&database).await).await;
                }
            )*)*
        }

        mod postgres {
            $($(
                #[tokio::test]
                async fn $case() {
                    use crate::{postgres, support::{Database, Engine, Server}};
                    if postgres::is_missing() {
                        return;
                    }
                    let database = Database::new(Engine::Postgres);
                    super::$module::$case(Server::start(&database).await).await;
                }
            )*)*
        }
    };
}

on_every_engine! {
    lists {
        lists_are_newest_first_by_default,
        an_empty_list_is_one_empty_page,
        users_are_listed_in_every_order,
        sessions_are_listed_in_every_order,
        an_unknown_order_or_state_is_refused,
        users_are_filtered_by_exactly_their_email,
        sessions_are_filtered_by_user_and_state,
        lists_of_what_does_not_exist_are_empty_or_not_found,
        pages_of_users_have_a_default_size_and_a_limit,
        pages_of_sessions_have_a_default_size_and_a_limit,
        pages_of_messages_have_a_default_size_and_a_limit,
        negative_sizes_and_numbers_are_refused,
        every_violation_of_a_list_is_listed,
        pages_are_numbered_from_one,
        a_page_has_a_number_or_a_token_but_not_both,
        a_walk_can_go_on_from_a_numbered_page,
        the_last_page_alone_names_no_other,
        a_token_is_refused_by_another_query,
        a_token_is_refused_by_another_list,
        a_token_that_was_edited_is_refused,
        a_token_does_not_wear_out,
        the_longest_ids_can_be_walked,
        a_total_follows_every_change,
        a_walk_of_users_is_steady_while_others_come_and_go,
        a_walk_of_sessions_is_steady_while_others_come_and_go,
        a_walk_of_messages_is_steady_while_others_come,
        a_walk_goes_on_where_its_last_row_was_erased,
        pages_of_large_messages_end_early,
        pages_of_large_users_end_early_unless_numbered,
        pages_of_large_sessions_end_early_unless_numbered,
        messages_are_listed_oldest_first,
        the_last_n_messages_are_listed_oldest_first,
        of_more_than_a_thousand_last_messages_a_thousand_are_listed,
        the_first_page_settles_which_messages_are_the_last,
    }
    users {
        a_user_comes_back_as_it_was_added,
        times_are_in_microseconds,
        absent_and_empty_fields_are_different,
        an_id_is_any_string_and_is_compared_byte_for_byte,
        what_an_id_cannot_be_is_refused,
        emails_and_names_are_any_text_up_to_a_limit,
        an_email_need_not_be_unique,
        metadata_comes_back_equal,
        metadata_has_limits,
        every_violation_is_listed,
        a_taken_user_id_already_exists,
        an_add_that_is_sent_again_answers_with_the_first_user,
        a_request_id_with_other_content_already_exists,
        an_unknown_user_is_not_found,
        an_update_sets_the_fields_that_are_present,
        an_update_merges_metadata,
        a_merge_that_grows_too_large_is_refused,
        a_masked_update_replaces_exactly_the_named_fields,
        a_star_mask_replaces_all_fields,
        an_unknown_or_immutable_path_is_refused,
        an_update_that_changes_nothing_returns_the_user_unchanged,
        concurrent_merges_all_survive,
        a_stale_etag_aborts_and_nothing_changes,
        of_concurrent_updates_with_one_etag_one_wins,
        an_etag_does_not_outlive_its_user,
        a_deletion_erases_the_user_with_all_that_is_theirs,
        a_deletion_of_nobody_is_not_found_unless_that_is_allowed,
        a_validation_answers_with_the_receipt_and_erases_nothing,
        a_deleted_id_can_be_used_again_at_once,
    }
    sessions {
        a_session_comes_back_as_it_was_added,
        a_session_is_counted_by_its_user_and_changes_nothing_else,
        absent_and_empty_metadata_of_a_session_are_different,
        a_session_id_is_any_string_and_is_compared_byte_for_byte,
        what_a_session_id_cannot_be_is_refused,
        metadata_of_a_session_has_limits,
        every_violation_of_a_session_is_listed,
        a_session_for_an_unknown_user_is_not_found,
        a_taken_session_id_already_exists,
        of_concurrent_adds_of_one_session_id_one_wins,
        concurrent_sessions_of_a_user_are_all_counted,
        a_session_that_is_added_again_is_the_first_one,
        a_request_id_for_another_session_already_exists,
        an_unknown_session_is_not_found,
        a_session_update_merges_metadata,
        a_session_merge_that_grows_too_large_is_refused,
        a_mask_replaces_or_clears_the_metadata_of_a_session,
        an_unknown_or_immutable_path_of_a_session_is_refused,
        an_update_that_changes_nothing_returns_the_session_unchanged,
        concurrent_merges_into_a_session_all_survive,
        a_stale_etag_of_a_session_aborts_and_nothing_changes,
        of_concurrent_session_updates_with_one_etag_one_wins,
        an_etag_does_not_outlive_its_session,
        the_first_end_of_a_session_stays,
        concurrent_ends_of_a_session_are_one,
        an_ended_session_is_not_changed,
        an_ended_session_can_be_deleted,
        a_deletion_erases_the_session_with_its_messages,
        of_concurrent_deletions_of_a_session_one_finds_it,
        a_deletion_of_no_session_is_not_found_unless_that_is_allowed,
        a_validation_of_a_session_deletion_erases_nothing,
        a_deleted_session_id_can_be_used_again_at_once,
        a_session_dies_with_its_user,
    }
    messages {
        messages_come_back_as_they_were_added,
        absent_and_empty_fields_of_a_message_are_different,
        messages_are_numbered_from_one_in_each_session,
        a_content_is_any_text_up_to_a_limit,
        a_speakers_name_is_any_text_up_to_a_limit,
        metadata_of_a_message_has_limits,
        one_to_a_thousand_messages_are_added_at_once,
        a_message_needs_a_known_role,
        every_violation_of_every_message_is_listed,
        more_violations_than_a_client_can_receive_are_counted,
        one_wrong_message_keeps_all_from_being_added,
        concurrent_messages_get_distinct_gapless_sequences,
        messages_that_meet_an_end_are_added_or_refused,
        messages_that_are_sent_again_are_the_first_ones,
        a_request_id_for_other_messages_already_exists,
        messages_without_a_request_id_are_added_each_time,
        added_messages_change_only_the_count_of_their_session,
        messages_beside_updates_of_their_session_are_all_counted,
        what_a_session_id_of_messages_cannot_be_is_refused,
        messages_of_an_unknown_session_are_not_found,
        an_ended_session_takes_no_messages,
        an_unknown_message_is_not_found,
        a_message_does_not_outlive_its_session,
        a_malformed_message_id_is_refused,
        a_message_update_merges_metadata,
        a_message_update_needs_metadata,
        a_message_merge_that_grows_too_large_is_refused,
        a_message_of_an_ended_session_can_be_updated,
        an_update_that_changes_nothing_returns_the_message_unchanged,
        concurrent_merges_into_a_message_all_survive,
    }
}
