//! What tenants may have, besides calls: their configuration as clients send it, the quotas that follow from it, and those
//! of all tenants as this process knows them. Who sets them and keeps them is `tenants`'; calls are `quota`'s and `throttle`'s.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::id::TenantId;

/// Something of which a tenant may have so much. (Variants are told apart by comments alone: each doc comment would be a
/// `oneOf` of its own in the schema, which clients dislike.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quota {
    MaxMemoryEntries,
    MaxTools,
    MaxDynamicTools,
    MaxRunningTasks,
    MaxStorageBytes,
}

impl Quota {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::MaxMemoryEntries,
        Self::MaxTools,
        Self::MaxDynamicTools,
        Self::MaxRunningTasks,
        Self::MaxStorageBytes,
    ];

    /// As configurations and refusals spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaxMemoryEntries => "max_memory_entries",
            Self::MaxTools => "max_tools",
            Self::MaxDynamicTools => "max_dynamic_tools",
            Self::MaxRunningTasks => "max_running_tasks",
            Self::MaxStorageBytes => "max_storage_bytes",
        }
    }

    /// What it counts.
    pub const fn counts(self) -> &'static str {
        match self {
            Self::MaxMemoryEntries => "entries of memory",
            Self::MaxTools => "tools",
            Self::MaxDynamicTools => "tools made at run time",
            Self::MaxRunningTasks => "tasks that executors work on",
            Self::MaxStorageBytes => "bytes of files",
        }
    }
}

/// How much of a quota is used.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Use {
    /// What it is called
    pub limit: Quota,
    /// What it counts
    pub counts: &'static str,
    /// How much there may be; any amount, if not said
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    /// How much there is
    pub used: u64,
}

/// What a tenant may have, and how long. What was not configured is as here by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Entries of memory; past them those go that are worth least.
    pub memory_entries: u64,
    /// How long an entry of memory is kept after it was last written; for ever, if not said.
    pub memory_retention: Option<Duration>,
    /// Tools, however they came to be.
    pub tools: u64,
    /// Tools that were made at run time.
    pub dynamic_tools: u64,
    /// Whether an admin has to agree before a tool is called.
    pub tool_approval: bool,
    /// Tasks that executors work on at a time; any number, if not said.
    pub running_tasks: Option<u64>,
    /// Bytes of files.
    pub storage_bytes: u64,
    /// How long one run of a script may take.
    pub script_time: Duration,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            memory_entries: 100_000,
            memory_retention: None,
            tools: 1_000,
            dynamic_tools: 500,
            tool_approval: false,
            running_tasks: None,
            storage_bytes: 1 << 30,
            script_time: Duration::from_secs(10),
        }
    }
}

impl Allowance {
    /// What a tenant may have that was configured so.
    pub fn of(configuration: &Configuration) -> Self {
        let usual = Self::default();
        let Configuration {
            mcp_config: memory,
            tool_limits: tools,
            task_limits: tasks,
            storage_limits: storage,
            script_limits: scripts,
            ai_providers: _,
        } = configuration;
        let or = |value: Option<u32>, usual: u64| value.map_or(usual, u64::from);
        let days = |days: u32| Duration::from_hours(24) * days;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Self {
            memory_entries: or(memory.max_memory_entries, usual.memory_entries),
            memory_retention: memory.memory_retention_days.map(days),
            tools: or(tools.max_tools, usual.tools),
            dynamic_tools: or(tools.max_dynamic_tools, usual.dynamic_tools),
            tool_approval: tools.require_approval.unwrap_or(usual.tool_approval),
            running_tasks: tasks.max_running_tasks.map(u64::from),
            storage_bytes: storage.max_storage_bytes.unwrap_or(usual.storage_bytes),
            script_time: scripts
                .max_script_seconds
                .map_or(usual.script_time, seconds),
        }
    }

    /// How much it may have of something; any amount, if not said.
    pub const fn most(&self, quota: Quota) -> Option<u64> {
        match quota {
            Quota::MaxMemoryEntries => Some(self.memory_entries),
            Quota::MaxTools => Some(self.tools),
            Quota::MaxDynamicTools => Some(self.dynamic_tools),
            Quota::MaxRunningTasks => self.running_tasks,
            Quota::MaxStorageBytes => Some(self.storage_bytes),
        }
    }

    /// How much of something is used, beside how much may be.
    pub const fn of_use(&self, quota: Quota, used: u64) -> Use {
        Use {
            limit: quota,
            counts: quota.counts(),
            value: self.most(quota),
            used,
        }
    }

    /// Lets a tenant that uses `used` of something have `more` of it.
    ///
    /// # Errors
    /// `quota_exceeded` says which quota, its value and the use.
    pub fn admit(&self, quota: Quota, used: u64, more: u64) -> Result<()> {
        match self.most(quota) {
            Some(most) if used.saturating_add(more) > most => {
                let (name, counts) = (quota.name(), quota.counts());
                let message = format!(
                    "{name} of this tenant is {most} {counts}; {used} are used, and this takes {more} more"
                );
                Err(Error::new(Kind::Limited, "quota_exceeded", message))
            }
            _ => Ok(()),
        }
    }
}

/// What a tenant is configured to, as clients send it. What is not said is as it is by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// Memory, and federation.
    pub mcp_config: McpConfig,
    /// Tools.
    pub tool_limits: ToolLimits,
    /// Tasks.
    pub task_limits: TaskLimits,
    /// Files.
    pub storage_limits: StorageLimits,
    /// Scripts.
    pub script_limits: ScriptLimits,
    /// The providers of models that the tenant uses, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ai_providers: Vec<AiProvider>,
}

/// Memory, and whether other servers may exchange it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct McpConfig {
    /// Entries of memory at most; past them those go that are worth least (default 100000)
    #[schemars(range(min = 0, max = 10_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_entries: Option<u32>,
    /// Days after which an entry of memory goes that was not written again; without it, it stays
    #[schemars(range(min = 1, max = 36_500))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_retention_days: Option<u32>,
    /// Whether other servers may exchange memory and tools with the tenant; not yet effective
    #[serde(skip_serializing_if = "Option::is_none")]
    pub federation_enabled: Option<bool>,
}

/// Tools of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ToolLimits {
    /// Tools at most, however they came to be (default 1000)
    #[schemars(range(min = 0, max = 100_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tools: Option<u32>,
    /// Tools made at run time at most (default 500)
    #[schemars(range(min = 0, max = 100_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_dynamic_tools: Option<u32>,
    /// Whether a tool made or changed by others waits for an admin to approve it (default false)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_approval: Option<bool>,
}

/// Tasks of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TaskLimits {
    /// Tasks that executors work on at a time at most; without it, any number
    #[schemars(range(min = 0, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running_tasks: Option<u32>,
}

/// Files of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StorageLimits {
    /// Bytes of files at most that the server keeps for the tenant (default 1 GiB)
    #[schemars(range(min = 0, max = 1_125_899_906_842_624_u64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_storage_bytes: Option<u64>,
}

/// Scripts of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScriptLimits {
    /// Seconds that one run of a script may take (default 10)
    #[schemars(range(min = 1, max = 300))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_script_seconds: Option<u32>,
}

/// A provider of models: its name, or more about it. (No doc comments on variants: each would be a title of its own.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AiProvider {
    // Its name alone.
    Named(#[schemars(length(min = 1, max = 100))] String),
    // Its name, which model, and how often.
    Detailed(ProviderDetails),
}

/// More about a provider of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderDetails {
    /// Its name
    #[schemars(length(min = 1, max = 100))]
    pub provider: String,
    /// The model
    #[schemars(length(min = 1, max = 200))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How many calls a minute it may get
    #[schemars(range(min = 0, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
}

impl Configuration {
    /// What is configured and has no effect yet.
    pub fn not_yet_effective(&self) -> Vec<&'static str> {
        let federation = self.mcp_config.federation_enabled.is_some();
        let federation = federation.then_some("mcp_config.federation_enabled");
        let providers = !self.ai_providers.is_empty();
        let providers = providers.then_some("ai_providers");
        federation.into_iter().chain(providers).collect()
    }

    /// The same with what holds by default where nothing is said.
    #[must_use]
    pub fn whole(mut self) -> Self {
        let allowance = Allowance::of(&self);
        let count = |value: u64| u32::try_from(value).ok();
        let seconds = allowance.script_time.as_secs();
        self.mcp_config.max_memory_entries = count(allowance.memory_entries);
        self.tool_limits.max_tools = count(allowance.tools);
        self.tool_limits.max_dynamic_tools = count(allowance.dynamic_tools);
        self.storage_limits.max_storage_bytes = Some(allowance.storage_bytes);
        self.script_limits.max_script_seconds = count(seconds);
        self
    }
}

/// What each tenant may have, as this process knows it. Who configured nothing costs a look at one flag.
#[derive(Default)]
pub struct Allowances {
    usual: Arc<Allowance>,
    is_any: AtomicBool,
    /// After which change of what is configured these are.
    changes: AtomicI64,
    tenants: RwLock<HashMap<TenantId, Arc<Allowance>>>,
    /// Whether any tenant is being deleted, and which.
    is_any_closed: AtomicBool,
    closed: RwLock<HashSet<TenantId>>,
}

/// What changed since somebody looked.
#[derive(Debug, Default)]
pub struct News {
    /// The number of the last change.
    pub changes: i64,
    /// Tenants that were configured.
    pub configured: Vec<(TenantId, Allowance)>,
    /// Tenants whose deletion began or ended.
    pub deleted: Vec<TenantId>,
    /// Tenants that are being deleted.
    pub closed: HashSet<TenantId>,
}

impl Allowances {
    /// What `tenant` may have.
    pub fn of(&self, tenant: &TenantId) -> Arc<Allowance> {
        if !self.is_any.load(Ordering::Relaxed) {
            return self.usual.clone();
        }
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.get(tenant).unwrap_or(&self.usual).clone()
    }

    /// The number of the last change that these know.
    pub fn changes(&self) -> i64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Lets a call of `tenant` in.
    ///
    /// # Errors
    /// `tenant_deleting`.
    pub fn check_open(&self, tenant: &TenantId) -> Result<()> {
        if !self.is_any_closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        if closed.contains(tenant) {
            return Err(closing());
        }
        Ok(())
    }

    /// Takes over what changed. What is older than what these know is late, and left.
    pub fn apply(&self, news: &News) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if news.changes < self.changes() {
            return;
        }
        for tenant in &news.deleted {
            tenants.remove(tenant);
        }
        for (tenant, allowance) in &news.configured {
            tenants.insert(tenant.clone(), Arc::new(allowance.clone()));
        }
        let mut closed = self.closed.write().unwrap_or_else(PoisonError::into_inner);
        closed.clone_from(&news.closed);
        self.changes.store(news.changes, Ordering::Relaxed);
        self.is_any.store(!tenants.is_empty(), Ordering::Relaxed);
        self.is_any_closed
            .store(!closed.is_empty(), Ordering::Relaxed);
    }

    /// The tenants of which this is so.
    pub fn which(&self, is_so: impl Fn(&Allowance) -> bool) -> Vec<(TenantId, Arc<Allowance>)> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let which = tenants.iter().filter(|(_, allowance)| is_so(allowance));
        which
            .map(|(tenant, allowance)| (tenant.clone(), allowance.clone()))
            .collect()
    }
}

/// What callers of a tenant are answered that is being deleted.
pub fn closing() -> Error {
    let message = "this tenant is being deleted, and everything of it";
    Error::conflict("tenant_deleting", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_refused_with_its_name_its_value_and_the_use() {
        let configuration: Configuration =
            serde_json::from_str(r#"{"tool_limits": {"max_tools": 2}}"#).unwrap();
        let allowance = Allowance::of(&configuration);
        assert!(allowance.admit(Quota::MaxTools, 1, 1).is_ok());
        let refused = allowance.admit(Quota::MaxTools, 2, 1).unwrap_err();
        assert_eq!(refused.code(), "quota_exceeded");
        assert_eq!(
            refused.message(),
            "max_tools of this tenant is 2 tools; 2 are used, and this takes 1 more"
        );
        assert!(allowance.admit(Quota::MaxRunningTasks, u64::MAX, 1).is_ok());
        for quota in Quota::ALL {
            assert_eq!(serde_json::to_value(quota).unwrap(), quota.name());
        }
    }

    #[test]
    fn what_is_late_changes_nothing() {
        let allowances = Allowances::default();
        let acme: TenantId = "acme".parse().unwrap();
        let having = |tools, changes| News {
            changes,
            configured: vec![(
                acme.clone(),
                Allowance {
                    tools,
                    ..Allowance::default()
                },
            )],
            ..News::default()
        };
        allowances.apply(&having(7, 2));
        allowances.apply(&having(5, 1));
        assert_eq!(allowances.of(&acme).tools, 7);
        assert_eq!(allowances.which(|it| it.tools == 7).len(), 1);
        assert_eq!(allowances.changes(), 2);
        assert!(allowances.check_open(&acme).is_ok());
        let gone = |closed| News {
            changes: 3,
            deleted: vec![acme.clone()],
            closed,
            ..News::default()
        };
        allowances.apply(&gone(HashSet::from([acme.clone()])));
        assert_eq!(*allowances.of(&acme), Allowance::default());
        let refused = allowances.check_open(&acme).unwrap_err();
        assert_eq!(refused.code(), "tenant_deleting");
        allowances.apply(&gone(HashSet::new()));
        assert!(allowances.check_open(&acme).is_ok());
    }
}
