//! A mail server that keeps what it is sent.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Mailbox {
    port: u16,
    letters: Arc<Mutex<Vec<Letter>>>,
    task: JoinHandle<()>,
}

/// A letter as it came: to whom, and head and body in one.
#[derive(Clone, Debug, Default)]
pub struct Letter {
    pub to: String,
    pub text: String,
}

impl Mailbox {
    pub async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("it listens").port();
        let letters = Arc::<Mutex<Vec<Letter>>>::default();
        let kept = letters.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, kept.clone()));
            }
        });
        Self { port, letters, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The newest letter to an address.
    pub async fn wait_for(&self, to: &str) -> Letter {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(letter) = letters.into_iter().rev().find(|letter| letter.to == to) {
                return letter;
            }
            assert!(Instant::now() < deadline, "no letter came to {to}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The token in the link of a letter.
    pub fn token(letter: &Letter) -> String {
        let text = letter.text.replace("=\r\n", "").replace("=3D", "=");
        let (_, after) = text.split_once("token=").unwrap_or_else(|| panic!("no token: {text}"));
        after.chars().take_while(char::is_ascii_alphanumeric).collect()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// SMTP as far as a client of good manners needs it (RFC 5321).
async fn receive(stream: TcpStream, letters: Arc<Mutex<Vec<Letter>>>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut letter = Letter::default();
    let mut in_data = false;
    let mut answer = "220 mail.example ESMTP\r\n";
    loop {
        if !answer.is_empty() && write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        let Ok(Some(line)) = lines.next_line().await else {
            return;
        };
        answer = match line.to_ascii_uppercase().as_str() {
            "." if in_data => {
                in_data = false;
                let letter = std::mem::take(&mut letter);
                letters.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
                "250 kept\r\n"
            }
            _ if in_data => {
                letter.text.push_str(&line);
                letter.text.push_str("\r\n");
                ""
            }
            "DATA" => {
                in_data = true;
                "354 go on\r\n"
            }
            upper if upper.starts_with("RCPT TO:") => {
                letter.to = line
                    .chars()
                    .skip("RCPT TO:<".len())
                    .take_while(|next| *next != '>')
                    .collect();
                "250 known\r\n"
            }
            "QUIT" => "221 bye\r\n",
            _ => "250 mail.example\r\n",
        };
    }
}
