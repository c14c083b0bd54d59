//! A Deployment with `maxSurge: 1, maxUnavailable: 0`: one new pod, wait until it is Ready, one old pod deleted, and so on.
//!
//! Driven by its caller's thread, so that a test knows when a rollout is over. Pods carry names, labels and the owner reference of a real
//! ReplicaSet (`web-5d9c7b8f6d`, `web-5d9c7b8f6d-x2k4q`); no ReplicaSet or Deployment object exists in the store. It does not repair: a pod
//! that disappears by other hands is not replaced.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::apiserver::{Kind, Store};

/// The alphabet of Kubernetes' generated names: no vowels, nothing that looks like them.
const SAFE_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// The API's default.
const DEFAULT_GRACE_SECONDS: u64 = 30;

/// A pod by name and uid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// The Deployment and the pods that it wants to be there.
#[derive(Debug)]
pub struct Deployment {
    store: Store,
    namespace: String,
    name: String,
    node_name: String,
    revision: u64,
    created: u64,
    pods: Vec<PodRef>,
}

impl Deployment {
    /// Creates the first pods, all at once, on the named node; `template` is a pod template (`metadata.labels`, `spec`).
    pub fn create(
        store: &Store,
        node_name: &str,
        namespace: &str,
        name: &str,
        replicas: usize,
        template: &Value,
    ) -> anyhow::Result<Self> {
        let mut this = Self {
            store: store.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node_name: node_name.to_owned(),
            revision: 0,
            created: 0,
            pods: Vec::new(),
        };
        for _ in 0..replicas {
            let pod = this.create_pod(template)?;
            this.pods.push(pod);
        }
        Ok(this)
    }

    /// The pods of the present revision.
    pub fn pods(&self) -> &[PodRef] {
        &self.pods
    }

    /// Waits until all pods are Ready.
    pub fn wait_ready(&self, timeout: Duration) -> anyhow::Result<()> {
        let ready = self.store.wait_until(timeout, |store| self.pods.iter().all(|pod| is_ready(store, pod)));
        if !ready {
            bail!("the pods of {} are not Ready after {timeout:?}: {}", self.name, self.statuses());
        }
        Ok(())
    }

    /// Replaces every pod by one of the new template, as a rolling update does; it does not wait for the old pods' end. Each new pod has
    /// `timeout` to become Ready. Returns the old pods in the order of their deletion.
    pub fn rollout(&mut self, template: &Value, timeout: Duration) -> anyhow::Result<Vec<PodRef>> {
        self.revision += 1;
        let old = std::mem::take(&mut self.pods);
        for pod in &old {
            let new = self.create_pod(template)?;
            self.pods.push(new);
            self.wait_ready(timeout)?;
            self.delete(pod)?;
        }
        Ok(old)
    }

    /// Deletes all pods, at once.
    pub fn delete_pods(&mut self) -> anyhow::Result<Vec<PodRef>> {
        let pods = std::mem::take(&mut self.pods);
        for pod in &pods {
            self.delete(pod)?;
        }
        Ok(pods)
    }

    /// Waits until the API objects of `pods` are gone.
    pub fn wait_gone(&self, pods: &[PodRef], timeout: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        let gone = |store: &Store, pod: &PodRef| store.get(Kind::Pods, &pod.namespace, &pod.name).is_err();
        if !self.store.wait_until(timeout, |store| pods.iter().all(|pod| gone(store, pod))) {
            let left: Vec<_> =
                pods.iter().filter(|pod| !gone(&self.store, pod)).map(|pod| &pod.name).collect();
            bail!("still there after {:?}: {left:?}", began.elapsed());
        }
        Ok(())
    }

    fn delete(&self, pod: &PodRef) -> anyhow::Result<()> {
        let object = self.store.get(Kind::Pods, &pod.namespace, &pod.name)?;
        let grace = object["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(DEFAULT_GRACE_SECONDS);
        self.store
            .delete_pod(&pod.namespace, &pod.name, grace)
            .map(drop)
            .with_context(|| format!("delete {}", pod.name))
    }

    fn create_pod(&mut self, template: &Value) -> anyhow::Result<PodRef> {
        let hash = safe_text(&(template.to_string(), self.revision), 10);
        let replica_set = format!("{}-{hash}", self.name);
        self.created += 1;
        let name = format!("{replica_set}-{}", safe_text(&(&replica_set, self.created), 5));
        let mut pod = template.clone();
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = json!(self.namespace);
        pod["metadata"]["generateName"] = json!(format!("{replica_set}-"));
        pod["metadata"]["labels"]["pod-template-hash"] = json!(hash);
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set, "uid": uid_like(&replica_set),
            "controller": true, "blockOwnerDeletion": true,
        }]);
        pod["spec"]["nodeName"] = json!(self.node_name);
        let pod = self.store.create(Kind::Pods, pod).with_context(|| format!("create {name}"))?;
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        Ok(PodRef { namespace: self.namespace.clone(), name, uid })
    }

    fn statuses(&self) -> String {
        let status = |pod: &PodRef| match self.store.get(Kind::Pods, &pod.namespace, &pod.name) {
            Ok(object) => format!("{}: {}", pod.name, object["status"]["containerStatuses"]),
            Err(error) => error.to_string(),
        };
        self.pods.iter().map(status).collect::<Vec<_>>().join("; ")
    }
}

fn is_ready(store: &Store, pod: &PodRef) -> bool {
    let Ok(object) = store.get(Kind::Pods, &pod.namespace, &pod.name) else { return false };
    is_condition_true(&object, "Ready")
}

/// Whether a pod's condition is True.
fn is_condition_true(pod: &Value, kind: &str) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn hash_of(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Text in the alphabet of generated names that follows from `value`.
fn safe_text(value: &impl std::hash::Hash, length: usize) -> String {
    let mut rest = hash_of(value);
    let base = u64::try_from(SAFE_ALPHABET.len()).expect("the alphabet is short");
    let mut letter = || {
        let index = usize::try_from(rest % base).unwrap_or(0);
        rest /= base;
        char::from(SAFE_ALPHABET[index])
    };
    (0..length).map(|_| letter()).collect()
}

fn uid_like(name: &str) -> String {
    let hash = hash_of(&name);
    format!("{:08x}-0000-4000-8000-{:012x}", hash >> 32, hash & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_named_as_a_replica_sets() {
        let store = Store::new();
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}});
        let deployment = Deployment::create(&store, "node-1", "shop", "web", 3, &template).expect("created");
        let (_, pods) = store.list(Kind::Pods);
        assert_eq!(pods.len(), 3);
        for pod in pods {
            let labels = &pod["metadata"]["labels"];
            let hash = labels["pod-template-hash"].as_str().expect("a hash");
            assert_eq!(hash.len(), 10);
            assert_eq!(labels["app"], "web");
            assert_eq!(pod["metadata"]["ownerReferences"][0]["name"], format!("web-{hash}"));
            let name = pod["metadata"]["name"].as_str().expect("a name");
            assert_eq!(name.len(), "web-".len() + 10 + 1 + 5, "{name}");
            assert_eq!(pod["spec"]["nodeName"], "node-1");
        }
        assert_eq!(deployment.pods().len(), 3);
    }

    #[test]
    fn another_revision_has_another_hash() {
        assert_ne!(safe_text(&("{}", 0), 10), safe_text(&("{}", 1), 10));
    }
}
