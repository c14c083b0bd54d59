//! The kinds of object that the stand-in serves, and their names in the API's paths and bodies.
//!
//! A closed set on purpose: it is what the agent and the test world read and write. Custom resources are out of reach.

/// A kind of object, as the API knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` pods.
    Pods,
    /// `v1` services.
    Services,
    /// `v1` events: the only kind that is written over HTTP.
    Events,
    /// `discovery.k8s.io/v1` endpoint slices.
    EndpointSlices,
    /// `v1` nodes (cluster-scoped).
    Nodes,
    /// `v1` namespaces (cluster-scoped).
    Namespaces,
}

impl Kind {
    /// Every kind, in the order of the discovery documents.
    pub const ALL: [Self; 6] =
        [Self::Namespaces, Self::Nodes, Self::Pods, Self::Services, Self::Events, Self::EndpointSlices];

    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Self::EndpointSlices => "discovery.k8s.io",
            Self::Pods | Self::Services | Self::Events | Self::Nodes | Self::Namespaces => "",
        }
    }

    /// The `apiVersion` of its objects.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::EndpointSlices => "discovery.k8s.io/v1",
            Self::Pods | Self::Services | Self::Events | Self::Nodes | Self::Namespaces => "v1",
        }
    }

    /// The plural name in paths (`pods`).
    pub fn resource(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Events => "events",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::Namespaces => "namespaces",
        }
    }

    /// The `kind` of its objects (`Pod`).
    pub fn object_kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Services => "Service",
            Self::Events => "Event",
            Self::EndpointSlices => "EndpointSlice",
            Self::Nodes => "Node",
            Self::Namespaces => "Namespace",
        }
    }

    /// Whether its objects live in a namespace.
    pub fn namespaced(self) -> bool {
        match self {
            Self::Pods | Self::Services | Self::Events | Self::EndpointSlices => true,
            Self::Nodes | Self::Namespaces => false,
        }
    }

    /// The kind that a group and a plural name denote, if it is served here.
    pub fn of_resource(group: &str, resource: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.group() == group && kind.resource() == resource)
    }
}
