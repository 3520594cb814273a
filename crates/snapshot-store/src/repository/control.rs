//! Changing the control state, `admin/control.json`: read, change, conditional put. A crash leaves the old state or
//! the new one.

use super::{Repository, error::StoreError, read::check_owner, request::PutFault};
use crate::{
    format::{Control, Keys, Stored},
    vocabulary::{ClusterIdentity, WriteId},
};

/// How often the change is tried: operators and admins change the control state a few times a day.
const UPDATE_TRIES: usize = 8;

impl Repository {
    /// Applies `change` to the control state and returns what is in force afterwards. A change that changes nothing
    /// writes nothing. `change` may be called several times, each time on what was just read, also after a write
    /// that got no clear answer and landed after all: it must be idempotent.
    ///
    /// # Errors
    /// When the control state is missing (it is not created), belongs to another cluster, or the store fails.
    pub async fn update_control(
        &self,
        cluster: &ClusterIdentity,
        mut change: impl FnMut(&mut Control),
    ) -> Result<Control, StoreError> {
        self.ensure_capable().await?;
        let missing = || StoreError::Missing {
            key: Keys::CONTROL.to_owned(),
        };
        let mut unclear = None;
        for tries in 1..=UPDATE_TRIES {
            let current = self.control().await?.ok_or_else(missing)?;
            check_owner(Keys::CONTROL, &current.value.cluster, cluster)?;
            let mut next = current.value.clone();
            change(&mut next);
            // The owner is not part of what can be changed.
            next.cluster = current.value.cluster.clone();
            next.write_id = current.value.write_id;
            if next == current.value {
                return Ok(next);
            }
            next.write_id = WriteId::new(self.seams().ulid());
            match self
                .put_if(Keys::CONTROL, next.encode(), Some(current.version))
                .await
            {
                Ok(_) => return Ok(next),
                Err(error) => {
                    let landed = self
                        .control()
                        .await?
                        .filter(|found| found.value.write_id == next.write_id);
                    if let Some(found) = landed {
                        return Ok(found.value);
                    }
                    match PutFault::of(Keys::CONTROL, error) {
                        PutFault::Lost => {}
                        PutFault::Unclear(source) => unclear = Some(source),
                        PutFault::Refused(error) => return Err(error),
                    }
                }
            }
            self.pause(tries).await;
        }
        let key = Keys::CONTROL.to_owned();
        match unclear {
            None => Err(StoreError::Contended {
                key,
                tries: UPDATE_TRIES,
            }),
            Some(source) => Err(StoreError::Indeterminate { key, source }),
        }
    }
}
