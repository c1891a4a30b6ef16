//! CPU time and memory of a process tree, from /proc. Knows nothing of what the processes do.

use std::collections::HashMap;
use std::fs;

/// What a process tree used between two moments.
pub struct Usage {
    pids: Vec<u32>,
    before: f64,
}

impl Usage {
    /// Starts counting; the peaks of memory start anew.
    pub fn start(pids: Vec<u32>) -> Self {
        for pid in &pids {
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        let before = cpu_seconds(&pids);
        Self { pids, before }
    }

    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.pids) - self.before
    }

    pub fn peak_mib(&self) -> f64 {
        self.pids
            .iter()
            .filter_map(|pid| peak_kib(*pid))
            .sum::<u64>() as f64
            / 1024.0
    }

    pub fn is_empty(&self) -> bool {
        self.pids.is_empty()
    }
}

/// The processes and all their descendants.
pub fn tree(roots: &[u32]) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: HashMap<u32, u32> = numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.0)))
        .collect();
    let mut found: Vec<u32> = roots
        .iter()
        .copied()
        .filter(|pid| parents.contains_key(pid))
        .collect();
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        next += 1;
        let children = parents
            .iter()
            .filter(|(_, of)| **of == parent)
            .map(|(child, _)| *child);
        let new: Vec<u32> = children.filter(|child| !found.contains(child)).collect();
        found.extend(new);
    }
    found
}

/// The parent and the clock ticks on CPU.
fn stat(pid: u32) -> Option<(u32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
    let fields: Vec<&str> = text[text.rfind(')')? + 2..].split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some((fields.get(1)?.parse().ok()?, ticks))
}

fn cpu_seconds(pids: &[u32]) -> f64 {
    let ticks: u64 = pids
        .iter()
        .filter_map(|pid| stat(*pid))
        .map(|(_, ticks)| ticks)
        .sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn peak_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}
