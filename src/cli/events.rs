//! `zcpctl events`

use std::time::Duration;

use futures::StreamExt as _;

use super::cluster::find_cluster;
use super::output::note;
use super::{Context, Failure};
use crate::api::events::Event;

/// How long to wait before a stream that ended is opened again.
const REOPEN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct EventsCommand {
    /// Only of this cluster.
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Go on after the event with this id.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
}

pub(super) async fn run(ctx: &Context, command: EventsCommand) -> Result<(), Failure> {
    let cluster = match &command.cluster {
        Some(name) => Some(find_cluster(ctx, name).await?.id.to_string()),
        None => None,
    };
    let mut query = Vec::new();
    query.extend(cluster.as_deref().map(|id| ("cluster", id)));
    let mut last = command.after;
    loop {
        let response = ctx.client.stream(&query, last.as_deref()).await?;
        let mut chunks = response.bytes_stream();
        let mut parser = Parser::default();
        while let Some(Ok(chunk)) = chunks.next().await {
            for data in parser.feed(&chunk) {
                let Ok(event) = serde_json::from_str::<Event>(&data) else { continue };
                ctx.output.line(&event, &text(&event))?;
                last = Some(event.id);
            }
        }
        note("the stream has ended; going on");
        tokio::time::sleep(REOPEN).await;
    }
}

pub(super) fn text(event: &Event) -> String {
    let (head, text) = parts(event);
    head + &text
}

/// When it was and whether it is bad, and what it was.
pub(super) fn parts(event: &Event) -> (String, String) {
    let mark = if event.kind == "warning" { "!" } else { " " };
    let head = format!("{} {mark} ", event.at.strftime("%H:%M:%S"));
    (head, format!("{}: {}", event.reason, event.message))
}

/// Splits a stream of server-sent events into the data of each.
#[derive(Debug, Default)]
struct Parser {
    rest: Vec<u8>,
    data: Vec<String>,
}

impl Parser {
    fn feed(&mut self, chunk: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(chunk);
        let mut whole = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if !self.data.is_empty() {
                    whole.push(std::mem::take(&mut self.data).join("\n"));
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                self.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_the_stream_is_cut() {
        let stream = "id: 1\nevent: x\ndata: {\"a\":\ndata: 1}\n\n: keep-alive\n\ndata:b\n\n";
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let chunks = stream.as_bytes().chunks(size);
            let found: Vec<String> = chunks.flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(found, ["{\"a\":\n1}", "b"], "in pieces of {size}");
        }
    }
}
