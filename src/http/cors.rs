//! Headers that let web clients of any origin use the server (client-server API, web browser clients).

/// Set on every answer.
pub const HEADERS: [(&str, &str); 4] = [
    ("Access-Control-Allow-Origin", "*"),
    (
        "Access-Control-Allow-Methods",
        "GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS",
    ),
    (
        "Access-Control-Allow-Headers",
        "X-Requested-With, Content-Type, Authorization, Date, If-Match, If-None-Match, Range",
    ),
    (
        "Access-Control-Expose-Headers",
        "ETag, Location, Retry-After, X-Max-Bytes, Content-Range, Content-Disposition",
    ),
];
