//! What goes on at a time, counted by whom it is: whoever holds a place is counted until he drops it, whatever became of him.

use std::sync::Arc;

use dashmap::DashMap;

use super::Key;
use crate::quota::Limit;

/// The counts; who has nothing going on has none.
#[derive(Default)]
pub(super) struct Gauges(DashMap<(Limit, Key), u32>);

/// A place under a limit; dropping it makes room for another one.
pub struct Place {
    gauges: Arc<Gauges>,
    limit: Limit,
    key: Key,
}

/// The places that a call takes; none where nothing is limited.
#[derive(Default)]
pub struct Pass(Vec<Place>);

impl Pass {
    /// Whether it holds no place.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Place> for Pass {
    fn from_iter<I: IntoIterator<Item = Place>>(places: I) -> Self {
        Self(places.into_iter().collect())
    }
}

impl Gauges {
    /// A place, unless `most` are taken.
    pub(super) fn take(
        self: &Arc<Self>,
        limit: Limit,
        key: &Key,
        most: Option<u32>,
    ) -> Option<Place> {
        let mut count = self.0.entry((limit, key.clone())).or_default();
        if most.is_some_and(|most| *count >= most) {
            return None;
        }
        *count += 1;
        drop(count);
        Some(Place {
            gauges: self.clone(),
            limit,
            key: key.clone(),
        })
    }

    pub(super) fn count(&self, limit: Limit, key: &Key) -> u32 {
        let count = self.0.get(&(limit, key.clone()));
        count.map_or(0, |count| *count)
    }

    /// Whether nothing is going on.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn busiest(&self, limit: Limit) -> u32 {
        let counts = self.0.iter().filter(|entry| entry.key().0 == limit);
        counts.map(|entry| *entry.value()).max().unwrap_or(0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let place = (self.limit, self.key.clone());
        if let Some(mut count) = self.gauges.0.get_mut(&place) {
            *count = count.saturating_sub(1);
        }
        self.gauges.0.remove_if(&place, |_, count| *count == 0);
    }
}
