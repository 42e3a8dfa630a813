use super::*;

async fn content(text: &[u8], boundary: &str) -> Outcome<Content> {
    let path = std::env::temp_dir().join(format!("multipart_{}_{}", std::process::id(), text.len()));
    tokio::fs::write(&path, text).await.expect("the folder can be written");
    let read = read(&path, boundary).await;
    tokio::fs::remove_file(&path).await.expect("it was made");
    read
}

#[test]
fn boundaries_are_read() {
    for (kind, expected) in [
        ("multipart/mixed; boundary=abc", Some("abc")),
        ("Multipart/Mixed;charset=x; Boundary=\"a b\"", Some("a b")),
        ("multipart/mixed", None),
        ("image/png; boundary=abc", None),
        ("multipart/mixed; boundary=", None),
    ] {
        assert_eq!(boundary(kind).as_deref(), expected, "{kind}");
    }
}

#[test]
fn names_are_read_and_cleaned() {
    for (text, expected) in [
        ("attachment; filename=\"a.png\"", Some("a.png")),
        ("inline; filename=a.png", Some("a.png")),
        ("inline; filename=\"x\"; filename*=utf-8''%C3%A4.png", Some("ä.png")),
        ("inline; filename=\"../../etc/passwd\"", Some("passwd")),
        ("inline", None),
        ("inline; filename=\"\"", None),
    ] {
        assert_eq!(file_name(text).as_deref(), expected, "{text}");
    }
}

#[tokio::test]
async fn the_second_part_is_the_media() {
    let body = b"\r\n--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: image/png\r\n\r\n\x01\r\n--bx\x02\r\n--b--\r\n";
    let Ok(Content::Media { headers, start, length }) = content(body, "b").await else {
        panic!("there is media");
    };
    assert_eq!(headers["content-type"], "image/png");
    let start = usize::try_from(start).expect("small");
    let length = usize::try_from(length).expect("small");
    assert_eq!(&body[start..start + length], b"\x01\r\n--bx\x02");
}

#[tokio::test]
async fn parts_without_headers_and_empty_media_are_fine() {
    let body = b"--b\r\n\r\n{}\r\n--b\r\n\r\n\r\n--b--";
    let Ok(Content::Media { length, .. }) = content(body, "b").await else {
        panic!("there is media");
    };
    assert_eq!(length, 0);
}

#[tokio::test]
async fn a_redirect_is_told() {
    let body =
        b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nLocation: https://cdn.example/x\r\n\r\n\r\n--b--";
    let Ok(Content::Elsewhere(url)) = content(body, "b").await else {
        panic!("it lies elsewhere");
    };
    assert_eq!(url, "https://cdn.example/x");
}

#[tokio::test]
async fn what_breaks_off_is_refused() {
    for body in [
        &b"--b\r\n\r\n{}\r\n--b\r\nContent-Type: image/png\r\n\r\n\x01\x02"[..],
        b"--b\r\n\r\n{}\r\n--b--",
        b"",
        b"--other\r\n\r\n{}",
    ] {
        assert!(content(body, "b").await.is_err());
    }
}
