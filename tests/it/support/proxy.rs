//! A proxy for real sockets that spoils what goes through it: later, cut, swallowed, or answered
//! by itself. It knows no protocol; a test names a piece of what the client says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How long the answer to a request is waited for before the connection is cut behind it.
const ANSWER: Duration = Duration::from_secs(5);

/// Where the proxy leads.
#[derive(Debug, Clone)]
pub enum Upstream {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Spoil {
    /// It is passed on later.
    Delay(Duration),
    /// The connection is cut, and the request is not passed on.
    CutBefore,
    /// It is passed on and done, and the connection is cut in place of the answer.
    CutAfter,
    /// It is swallowed, as all that follows, and the connection stays open.
    Swallow,
    /// It is passed on and done, and this comes back in place of the answer.
    DoneButAnswered(String),
    /// It is not passed on, and this comes back.
    Answer(String),
}

struct Rule {
    /// What the client says; anything when empty.
    says: Vec<u8>,
    spoil: Spoil,
    /// How often yet.
    left: u32,
}

#[derive(Default)]
struct Plan {
    rules: Mutex<Vec<Rule>>,
    cut: Notify,
}

impl Plan {
    fn of(&self, said: &[u8]) -> Option<Spoil> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let says = |rule: &Rule| {
            rule.says.is_empty() || said.windows(rule.says.len()).any(|part| part == rule.says)
        };
        let rule = rules.iter_mut().find(|rule| rule.left > 0 && says(rule))?;
        rule.left -= 1;
        Some(rule.spoil.clone())
    }
}

/// A running proxy. Ends with everything in it when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    plan: Arc<Plan>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A proxy that passes everything on.
    pub async fn to(upstream: Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let plan = Arc::new(Plan::default());
        let mut tasks = JoinSet::new();
        let of_all = Arc::clone(&plan);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (plan, upstream) = (Arc::clone(&of_all), upstream.clone());
                connections.spawn(async move {
                    let _ends_when_either_side_does = connect(client, upstream, &plan).await;
                });
            }
        });
        Self { address, plan, _tasks: tasks }
    }

    /// A proxy before the database behind `url`, and the URL through it.
    pub async fn before_postgres(url: &str) -> (Self, String) {
        let (database, rest) = url
            .trim_start_matches("postgres:///")
            .split_once("?host=")
            .expect("the URL of a private server");
        let (folder, user) = rest.split_once("&user=").expect("with a user");
        let proxy = Self::to(Upstream::Unix(PathBuf::from(folder).join(".s.PGSQL.5432"))).await;
        let url = format!("postgres://{user}@{}/{database}", proxy.address);
        (proxy, url)
    }

    /// Spoils the next `times` requests in which the client says this.
    pub fn spoil(&self, says: &str, spoil: Spoil, times: u32) {
        let rule = Rule { says: says.as_bytes().to_vec(), spoil, left: times };
        self.plan.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    /// Passes everything on again; connections that were swallowed stay so.
    pub fn heal(&self) {
        self.plan.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Cuts every open connection.
    pub fn cut(&self) {
        self.plan.cut.notify_waiters();
    }
}

async fn connect(client: TcpStream, upstream: Upstream, plan: &Plan) -> std::io::Result<()> {
    match upstream {
        Upstream::Tcp(address) => relay(client, TcpStream::connect(address).await?, plan).await,
        Upstream::Unix(path) => relay(client, UnixStream::connect(path).await?, plan).await,
    }
}

async fn relay<S>(mut client: TcpStream, server: S, plan: &Plan) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            () = plan.cut.notified() => return Ok(()),
            read = client.read(&mut asked) => {
                let said = &asked[..read?];
                if said.is_empty() {
                    return Ok(());
                }
                match plan.of(said) {
                    None => to_server.write_all(said).await?,
                    Some(Spoil::Delay(time)) => {
                        tokio::time::sleep(time).await;
                        to_server.write_all(said).await?;
                    }
                    Some(Spoil::CutBefore) => return Ok(()),
                    Some(Spoil::Swallow) => {
                        plan.cut.notified().await;
                        return Ok(());
                    }
                    Some(Spoil::Answer(text)) => return client.write_all(text.as_bytes()).await,
                    Some(Spoil::CutAfter) => {
                        to_server.write_all(said).await?;
                        let _done = tokio::time::timeout(ANSWER, from_server.read(&mut answered)).await;
                        return Ok(());
                    }
                    Some(Spoil::DoneButAnswered(text)) => {
                        to_server.write_all(said).await?;
                        let _done = tokio::time::timeout(ANSWER, from_server.read(&mut answered)).await;
                        return client.write_all(text.as_bytes()).await;
                    }
                }
            }
            read = from_server.read(&mut answered) => match read? {
                0 => return Ok(()),
                length => client.write_all(&answered[..length]).await?,
            },
        }
    }
}
