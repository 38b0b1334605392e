//! Glance: the images that servers boot.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::client::{Call, CloudClient, Service};
use crate::domain::inventory::Image;
use crate::domain::outside::OutsideError;

/// Largest page that Glance gives by default (`api_limit_max`).
const IMAGE_PAGE: usize = 1000;
/// The property that says which kubelet an image holds.
const KUBERNETES_VERSION: &str = "kubernetes_version";

impl CloudClient {
    /// All images that the project can see.
    pub async fn list_images(&self) -> Result<Vec<Image>, OutsideError> {
        self.images(list()).await
    }

    /// The images called exactly `name`; there can be several.
    pub async fn find_images(&self, name: &str) -> Result<Vec<Image>, OutsideError> {
        let images = self.images(list().query("name", name)).await?;
        Ok(images.into_iter().filter(|image| image.name == name).collect())
    }

    /// The images whose property `kubernetes_version` is exactly `version`.
    pub async fn find_images_by_version(&self, version: &str) -> Result<Vec<Image>, OutsideError> {
        let images = self.images(list().query(KUBERNETES_VERSION, version)).await?;
        let is_it = |image: &Image| image.kubernetes_version.as_deref() == Some(version);
        Ok(images.into_iter().filter(is_it).collect())
    }

    /// One image, or `None` if Glance says that there is none.
    pub async fn image(&self, id: &str) -> Result<Option<Image>, OutsideError> {
        let call = Call::get(Service::Image, "glance show image", format!("/images/{id}"));
        match self.fetch::<Row>(&call).await {
            Ok(row) => Ok(Some(Image::from(row))),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn images(&self, call: Call) -> Result<Vec<Image>, OutsideError> {
        let rows: Vec<Row> = self.fetch_list(call, "images").await?;
        Ok(rows.into_iter().map(Image::from).collect())
    }
}

fn list() -> Call {
    Call::get(Service::Image, "glance list images", "/images")
        .query("limit", IMAGE_PAGE.to_string())
}

/// Properties stand beside the fields, in one flat object.
#[derive(Deserialize)]
struct Row {
    id: String,
    name: Option<String>,
    status: String,
    size: Option<u64>,
    #[serde(default)]
    min_disk: u64,
    #[serde(default)]
    min_ram: u64,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl From<Row> for Image {
    fn from(row: Row) -> Self {
        let text = |(key, value): (String, Value)| match value {
            Value::String(value) => Some((key, value)),
            _ => None,
        };
        let properties: BTreeMap<String, String> = row.rest.into_iter().filter_map(text).collect();
        Self {
            id: row.id,
            name: row.name.unwrap_or_default(),
            status: row.status,
            kubernetes_version: properties.get(KUBERNETES_VERSION).cloned(),
            size: row.size,
            min_disk_gb: row.min_disk,
            min_ram_mb: row.min_ram,
            properties,
        }
    }
}
