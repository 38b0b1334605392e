//! `zcpctl token`

use clap::Subcommand;

use super::confirm::Consent;
use super::output::{Rows, json, moment, note, print};
use super::{Context, Failure};
use crate::api::tokens::{CreatedToken, NewToken, Token};
use crate::domain::access::Role;
use crate::domain::duration::HumanDuration;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Makes a token and prints its secret, once. Owners and viewers need --project.
    Create {
        /// What it is for.
        name: String,
        /// operator, owner or viewer.
        #[arg(long)]
        role: Role,
        /// How long it is good, such as 24h; for ever if not given.
        #[arg(long, value_name = "DURATION")]
        lifetime: Option<HumanDuration>,
    },
    /// Lists tokens, without their secrets.
    List,
    /// Ends a token.
    Revoke {
        /// Its id.
        id: String,
        #[command(flatten)]
        consent: Consent,
    },
}

impl Rows for Token {
    const HEADER: &'static [&'static str] = &["ID", "NAME", "ROLE", "STATE"];

    fn row(&self) -> Vec<String> {
        let state = match (self.revoked_at, self.expires_at) {
            (Some(at), _) => format!("revoked {}", moment(at)),
            (None, Some(at)) => format!("until {}", moment(at)),
            (None, None) => "good".to_owned(),
        };
        let role = self.role.to_string();
        vec![self.id.to_string(), self.name.clone(), role, state]
    }
}

pub(super) async fn run(ctx: &Context, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { name, role, lifetime } => {
            // The profile's project is a convenience; an operator's token has none.
            let project = ctx.project.clone().filter(|_| role != Role::Operator);
            let lifetime_seconds = lifetime.map(HumanDuration::seconds);
            let new = NewToken { name, role, project, lifetime_seconds };
            let made: CreatedToken = ctx.client.post(&["v1", "tokens"], &new).await?;
            if ctx.output.is_json() {
                return json(&made);
            }
            note("keep this secret; it is shown only once:");
            print(&format!("{}\n", made.secret))
        }
        TokenCommand::List => {
            let tokens: Vec<Token> = ctx.client.list(&["v1", "tokens"], &[]).await?;
            ctx.output.list(&tokens)
        }
        TokenCommand::Revoke { id, consent } => {
            consent.ask(&format!("token {id} will open nothing any more"))?;
            ctx.client.delete(&["v1", "tokens", &id]).await?;
            note("revoked");
            Ok(())
        }
    }
}
