use ruma::user_id;

use super::*;

const BOTH: &[Flow] = &[&[Stage::RegistrationToken, Stage::Dummy], &[Stage::Password]];

#[test]
fn stages_are_completed_in_the_order_of_a_flow() {
    assert!(may_follow(BOTH, &[], Stage::RegistrationToken));
    assert!(may_follow(BOTH, &[], Stage::Password));
    assert!(!may_follow(BOTH, &[], Stage::Dummy));
    assert!(may_follow(BOTH, &[Stage::RegistrationToken], Stage::Dummy));
    assert!(!may_follow(BOTH, &[Stage::RegistrationToken], Stage::Password));
    assert!(is_complete(BOTH, &[Stage::RegistrationToken, Stage::Dummy]));
    assert!(is_complete(BOTH, &[Stage::Password]));
    assert!(!is_complete(BOTH, &[Stage::RegistrationToken]));
    assert!(!is_complete(BOTH, &[]));
}

#[test]
fn a_session_serves_one_operation_user_and_object() {
    let uia = Uia::new(1_000);
    let alice = Some(user_id!("@alice:hs.example"));
    let bound = Bound::new("delete_devices", alice, b"A");
    uia.begin("s".to_owned(), bound.clone(), 0);
    assert_eq!(uia.find("s", &bound, 10), Found::Open(Progress::default()));
    let others = [
        Bound::new("password", alice, b"A"),
        Bound::new("delete_devices", Some(user_id!("@bob:hs.example")), b"A"),
        Bound::new("delete_devices", alice, b"B"),
    ];
    for other in others {
        assert_eq!(uia.find("s", &other, 10), Found::Foreign);
    }
    assert_eq!(uia.find("t", &bound, 10), Found::Nothing);
}

#[test]
fn a_session_remembers_its_stages_until_it_ends() {
    let uia = Uia::new(1_000);
    let bound = Bound::new("register", None, b"");
    uia.begin("s".to_owned(), bound.clone(), 0);
    let progress = uia.complete("s", Stage::RegistrationToken, Gain::RegistrationToken("tea".to_owned()));
    assert_eq!(progress.completed, [Stage::RegistrationToken]);
    uia.complete("s", Stage::RegistrationToken, Gain::Nothing);
    let Found::Open(progress) = uia.find("s", &bound, 999) else {
        panic!("the session is open");
    };
    assert_eq!(progress.completed, [Stage::RegistrationToken]);
    assert_eq!(progress.registration_token.as_deref(), Some("tea"));
    assert_eq!(uia.find("s", &bound, 1_000), Found::Nothing);

    uia.begin("s".to_owned(), bound.clone(), 0);
    uia.finish("s");
    assert_eq!(uia.find("s", &bound, 1), Found::Nothing);
}

#[test]
fn the_oldest_sessions_are_forgotten_first() {
    let uia = Uia::new(1_000);
    let bound = Bound::new("register", None, b"");
    for n in 0..=MAX_SESSIONS {
        uia.begin(n.to_string(), bound.clone(), 0);
    }
    assert_eq!(uia.find("0", &bound, 1), Found::Nothing);
    assert_eq!(uia.find("1", &bound, 1), Found::Open(Progress::default()));
}

#[test]
fn a_challenge_says_what_is_to_be_done() {
    let error = Some(("M_FORBIDDEN", "Invalid password"));
    let DomainError::Uiaa(body) = challenge(BOTH, "s", &[Stage::RegistrationToken], error) else {
        panic!("a challenge");
    };
    let expected = json!({
        "flows": [{ "stages": ["m.login.registration_token", "m.login.dummy"] }, { "stages": ["m.login.password"] }],
        "params": {},
        "session": "s",
        "completed": ["m.login.registration_token"],
        "errcode": "M_FORBIDDEN",
        "error": "Invalid password",
    });
    assert_eq!(Value::Object(body), expected);
}
