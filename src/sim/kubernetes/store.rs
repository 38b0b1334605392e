//! The objects of one cluster, their revisions, and the stream of changes that watches read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::broadcast;

use super::object;
use super::pods::PodFacts;
use super::resource::{self, Kind};

/// How many changes a watch may lag behind or start from. A real server keeps a window as well,
/// and answers 410 beyond it.
const WINDOW: usize = 2048;

/// A namespace (empty for cluster-wide kinds) and a name.
pub(super) type Place = (String, String);

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeType {
    Added,
    Modified,
    Deleted,
}

/// One change, as watches see it.
#[derive(Debug)]
pub(super) struct Change {
    pub revision: u64,
    pub kind: Kind,
    pub change: ChangeType,
    pub object: Arc<Value>,
    /// The object before a modification: a watch with a selector needs it.
    pub before: Option<Arc<Value>>,
}

/// Changes as they happen.
pub(super) type Changes = broadcast::Receiver<Arc<Change>>;

/// Objects by kind and place.
#[derive(Debug, Default)]
pub(super) struct Store {
    objects: BTreeMap<Kind, BTreeMap<Place, Arc<Value>>>,
    /// What controllers ask about each pod, so that a pass over all pods reads no JSON.
    pods: BTreeMap<Place, PodFacts>,
    uids: BTreeSet<String>,
    revision: u64,
    /// The revision up to which history is forgotten.
    forgotten: u64,
    recent: VecDeque<Arc<Change>>,
    changes: Option<broadcast::Sender<Arc<Change>>>,
    is_dirty: bool,
    has_deletions: bool,
    /// Counts everything that changed the cluster, what is no object included.
    touches: u64,
}

impl Store {
    /// An empty store that goes on counting after `revision`.
    pub(super) fn starting_at(revision: u64) -> Self {
        Self { revision, forgotten: revision, ..Self::default() }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        // A tuple of owned strings cannot be looked up by a tuple of slices.
        self.objects.get(&kind)?.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(super) fn at(&self, kind: Kind, place: &Place) -> Option<&Arc<Value>> {
        self.objects.get(&kind)?.get(place)
    }

    /// All objects of a kind, in the order of their places.
    pub(super) fn all(&self, kind: Kind) -> impl DoubleEndedIterator<Item = (&Place, &Arc<Value>)> {
        self.objects.get(&kind).into_iter().flatten()
    }

    /// The places of all objects of a kind: for loops that change them.
    pub(super) fn places(&self, kind: Kind) -> Vec<Place> {
        self.all(kind).map(|(place, _)| place.clone()).collect()
    }

    pub(super) fn pods(&self) -> &BTreeMap<Place, PodFacts> {
        &self.pods
    }

    pub(super) fn has_uid(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    /// Every object, for a snapshot.
    pub(super) fn everything(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.objects.values().flat_map(BTreeMap::values)
    }

    /// Adds or replaces an object and gives it the next revision.
    pub(super) fn put(&mut self, kind: Kind, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let before = self.insert(kind, Arc::clone(&object));
        let change = if before.is_some() { ChangeType::Modified } else { ChangeType::Added };
        self.tell(Change {
            revision: self.revision,
            kind,
            change,
            object: Arc::clone(&object),
            before,
        });
        object
    }

    /// Puts back an object as a snapshot holds it: nobody is told.
    pub(super) fn restore(&mut self, kind: Kind, object: Value) {
        self.insert(kind, Arc::new(object));
    }

    fn insert(&mut self, kind: Kind, object: Arc<Value>) -> Option<Arc<Value>> {
        self.touches += 1;
        let place = (object::namespace(&object).to_owned(), object::name(&object).to_owned());
        self.uids.insert(object::uid(&object).to_owned());
        if kind == Kind::Pod {
            self.pods.insert(place.clone(), PodFacts::of(&object));
        }
        self.is_dirty |= kind.moves_controllers() || object::is_deleting(&object);
        self.objects.entry(kind).or_default().insert(place, object)
    }

    /// Takes an object away for good.
    pub(super) fn remove(&mut self, kind: Kind, place: &Place) -> Option<Arc<Value>> {
        let gone = self.objects.get_mut(&kind)?.remove(place)?;
        self.uids.remove(object::uid(&gone));
        self.pods.remove(place);
        self.revision += 1;
        self.touches += 1;
        let mut last = (*gone).clone();
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(last);
        self.is_dirty = true;
        self.has_deletions = true;
        self.tell(Change {
            revision: self.revision,
            kind,
            change: ChangeType::Deleted,
            object: Arc::clone(&object),
            before: None,
        });
        Some(object)
    }

    fn tell(&mut self, change: Change) {
        let change = Arc::new(change);
        if let Some(changes) = &self.changes {
            // Nobody listening is fine: history below is what a later watch starts from.
            let _ = changes.send(Arc::clone(&change));
        }
        self.recent.push_back(change);
        if self.recent.len() > WINDOW
            && let Some(oldest) = self.recent.pop_front()
        {
            self.forgotten = oldest.revision;
        }
    }

    /// Everything that happened after `revision`, then what will happen; `None` when that
    /// history is gone.
    pub(super) fn follow(&mut self, revision: u64) -> Option<(Vec<Arc<Change>>, Changes)> {
        if revision < self.forgotten {
            return None;
        }
        let missed = self.recent.iter().filter(|change| change.revision > revision);
        let missed = missed.cloned().collect();
        let changes = self.changes.get_or_insert_with(|| broadcast::channel(WINDOW).0);
        Some((missed, changes.subscribe()))
    }

    /// The oldest revision that a watch may start from.
    pub(super) fn oldest(&self) -> u64 {
        self.forgotten
    }

    /// Whether somebody watches.
    pub(super) fn is_watched(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.receiver_count() > 0)
    }

    /// Ends every watch: their clients see the connection close.
    pub(super) fn end_watches(&mut self) {
        self.changes = None;
    }

    /// Whether controllers have something to look at; asking resets it.
    pub(super) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.is_dirty)
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Whether something was deleted, so that its dependents may have to go; asking resets it.
    pub(super) fn take_deletions(&mut self) -> bool {
        std::mem::take(&mut self.has_deletions)
    }

    /// Has the garbage collector look for what has no owner.
    pub(super) fn note_deletion(&mut self) {
        self.has_deletions = true;
    }

    /// Has the controllers look again.
    pub(super) fn touch(&mut self) {
        self.is_dirty = true;
        self.touches += 1;
    }

    /// How often the cluster was changed since it was made or unpacked.
    pub(super) fn touches(&self) -> u64 {
        self.touches
    }
}

/// Fills in what a new object must have.
pub(super) fn complete_metadata(object: &mut Value, uid: String, now: Timestamp) {
    let metadata = &mut object["metadata"];
    metadata["uid"] = uid.into();
    metadata["creationTimestamp"] = object::stamp(now);
    for field in ["selfLink", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        object::remove(metadata, field);
    }
}

/// The kind of a stored object.
pub(super) fn kind_of(object: &Value) -> Option<Kind> {
    let found = resource::by_type(object["apiVersion"].as_str()?, object["kind"].as_str()?)?;
    Some(found.kind)
}
