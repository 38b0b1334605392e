//! Reads columns into domain types; what cannot be is [`StoreError::Inconsistent`].

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{Decode, Postgres, Row, Type};
use uuid::Uuid;

use super::{StoreError, Ts};

/// A row of `table`, read column by column.
pub(crate) struct Reader<'r> {
    row: &'r PgRow,
    table: &'static str,
    id: Uuid,
}

impl<'r> Reader<'r> {
    /// Reads a row of `table` that has an `id`.
    pub fn new(table: &'static str, row: &'r PgRow) -> Result<Self, StoreError> {
        Ok(Self { row, table, id: row.try_get("id")? })
    }

    /// A column as it is.
    pub fn get<T>(&self, column: &str) -> Result<T, StoreError>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        Ok(self.row.try_get(column)?)
    }

    /// A word of one of our enums.
    pub fn word<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let text: String = self.row.try_get(column)?;
        from_word(&text).map_err(|error| self.inconsistent(column, error))
    }

    /// A `jsonb` column.
    pub fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let value: serde_json::Value = self.row.try_get(column)?;
        serde_json::from_value(value).map_err(|error| self.inconsistent(column, error))
    }

    /// A `jsonb` column that may be null.
    pub fn maybe_json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let value: Option<serde_json::Value> = self.row.try_get(column)?;
        value
            .map(serde_json::from_value)
            .transpose()
            .map_err(|error| self.inconsistent(column, error))
    }

    /// A time.
    pub fn at(&self, column: &str) -> Result<Timestamp, StoreError> {
        Ok(self.row.try_get::<Ts, _>(column)?.to_jiff())
    }

    /// A time that may be null.
    pub fn maybe_at(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.row.try_get::<Option<Ts>, _>(column)?.map(Ts::to_jiff))
    }

    /// A number that is never negative.
    pub fn count<T: TryFrom<i32>>(&self, column: &str) -> Result<T, StoreError> {
        let number: i32 = self.row.try_get(column)?;
        T::try_from(number).map_err(|_| self.inconsistent(column, "out of range"))
    }

    /// A number that is never negative and may be null.
    pub fn maybe_count<T: TryFrom<i32>>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let number: Option<i32> = self.row.try_get(column)?;
        number.map(T::try_from).transpose().map_err(|_| self.inconsistent(column, "out of range"))
    }

    fn inconsistent(&self, column: &str, problem: impl std::fmt::Display) -> StoreError {
        StoreError::inconsistent(self.table, self.id, format!("{column}: {problem}"))
    }
}

/// The value of an enum by its word.
pub(crate) fn from_word<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
}

/// A value as `jsonb` takes it.
pub(crate) fn to_json(value: impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("plain data has a JSON form")
}

/// A count as an `integer` column takes it.
pub(crate) fn to_integer<T: TryInto<i32>>(count: T) -> i32 {
    count.try_into().unwrap_or(i32::MAX)
}
