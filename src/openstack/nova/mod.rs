//! Nova: servers, the groups that keep them apart, and what a project may make.

mod groups;
mod offers;
mod servers;

pub use groups::ServerGroup;
pub use offers::ComputeLimits;
pub use servers::{
    CreateServer, FlavorRef, MAX_USER_DATA, Server, ServerAddress, ServerFault, ServerFilter,
    ServerList,
};
