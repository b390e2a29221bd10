//! The contract, sentence by sentence, on every engine. A case takes a server with
//! an empty database and may do with it what it likes.

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
    };
}

on_every_engine! {
    users {
        a_user_comes_back_as_it_was_added,
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
}
