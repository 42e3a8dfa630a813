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

/// The header for a text that was signed, and what a request with another text of the same meaning comes to.
fn checked(signed: &str, body: &str) -> Result<(), Fault> {
    let key = ServerKey::new(&[7; 32], "1");
    let us = server_name!("us.example");
    let object = format!(
        r#"{{"content":{signed},"destination":"us.example","method":"PUT","origin":"a.example","uri":"/_matrix/x?a=1"}}"#
    );
    let signature = key.sign(object.as_bytes()).base64();
    let header = format!(
        r#"X-Matrix origin="a.example",destination="us.example",key="{}",sig="{signature}""#,
        key.id()
    );
    let claim = Claim::read(&headers(&[&header]), us).expect("the header is well formed");
    let mut request = Request::new(Bytes::copy_from_slice(body.as_bytes()));
    *request.method_mut() = http::Method::PUT;
    *request.uri_mut() = "/_matrix/x?a=1".parse().expect("an address");
    let known = [(key.id(), Base64::new(key.public_key().to_vec()))];
    let keys = [("a.example".to_owned(), known.into_iter().collect())]
        .into_iter()
        .collect();
    claim.check(&request, us, &keys)
}

#[test]
fn fractions_are_signed_as_they_are_written() {
    for number in [
        "0.5",
        "1e-05",
        "1e+16",
        "-0.0",
        "12345678901234567890.0",
        "9007199254740993",
    ] {
        let signed = format!(r#"{{"edus":[{{"b":{number}}}],"pdus":[]}}"#);
        assert_eq!(checked(&signed, &signed), Ok(()), "{number}");
        let spaced = format!(r#"{{ "pdus": [], "edus": [{{"b": {number}}}] }}"#);
        assert_eq!(checked(&signed, &spaced), Ok(()), "{number}");
    }
    let changed = checked(r#"{"a":0.5,"b":1}"#, r#"{"a":0.5,"b":2}"#);
    assert!(matches!(changed, Err(Fault::Signature(_))), "{changed:?}");
    let another = checked(r#"{"a":0.5}"#, r#"{"a":0.50}"#);
    assert!(matches!(another, Err(Fault::Signature(_))), "{another:?}");
    let broken = checked(r#"{"a":0.5}"#, r#"{"a":0.5"#);
    assert!(matches!(broken, Err(Fault::NotJson(_))), "{broken:?}");
}
