use ruma::server_name;

use super::*;

fn headers(values: &[&str]) -> HeaderMap {
    let value = |value: &&str| (AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
    values.iter().map(value).collect()
}

fn read(values: &[&str]) -> Result<(String, Vec<String>), String> {
    let claim = Claim::read(&headers(values), server_name!("us.example:8448"))?;
    Ok((
        claim.origin.to_string(),
        claim.key_ids().map(ToOwned::to_owned).collect(),
    ))
}

#[test]
fn headers_of_all_ages_are_read() {
    let expected = Ok(("a.example:80".to_owned(), vec!["ed25519:1".to_owned()]));
    for header in [
        r#"X-Matrix origin="a.example:80",destination="us.example:8448",key="ed25519:1",sig="dGVzdA""#,
        r#"x-matrix   Key="ed25519:1" , Origin="a.example:80",	sig="dGVzdA", destination="us.example:8448""#,
        // As before version 1.3 of the specification, and without quotes.
        "X-Matrix origin=a.example:80,key=ed25519:1,sig=dGVzdA",
        r#"X-Matrix origin=a.example:80,key="ed25519:1",sig=dGVzdA==,new="a,b=c""#,
        r#"X-Matrix origin="a.example\:80",key="ed25519:1",sig="dGVzdA""#,
    ] {
        assert_eq!(read(&[header]), expected, "{header}");
    }
    let other = r#"X-Matrix origin="a.example:80",key="ed25519:2",sig="dGVzdA""#;
    let first = r#"X-Matrix origin="a.example:80",key="ed25519:1",sig="dGVzdA""#;
    let both = vec!["ed25519:1".to_owned(), "ed25519:2".to_owned()];
    assert_eq!(read(&["Bearer x", first, other]), Ok(("a.example:80".to_owned(), both)));
}

#[test]
fn bad_claims_are_refused() {
    let header = |origin: &str, rest: &str| format!(r#"X-Matrix origin="{origin}",sig="dGVzdA"{rest}"#);
    let good = header("a.example", r#",key="ed25519:1""#);
    for (headers, expected) in [
        (vec![], "not signed"),
        (vec!["Bearer x"], "not signed"),
        (vec!["X-Matrix"], "malformed"),
        (vec![&*header("a.example", "")], "malformed"),
        (vec![&*header("a b", r#",key="ed25519:1""#)], "malformed"),
        (
            vec![&*header("a.example", r#",key="ed25519:1",origin="b.example""#)],
            "malformed",
        ),
        (
            vec![&*header("us.example:8448", r#",key="ed25519:1""#)],
            "this very server",
        ),
        (
            vec![&*header("a.example", r#",key="ed25519:1",destination="us.example""#)],
            "another server",
        ),
        (
            vec![&*good, &*header("b.example", r#",key="ed25519:1""#)],
            "several servers",
        ),
        (vec![&*good; 5], "more than"),
    ] {
        let error = read(&headers).expect_err("refused");
        assert!(error.contains(expected), "{headers:?}: {error}");
    }
}
