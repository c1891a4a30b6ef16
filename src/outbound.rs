//! Every HTTP call that leaves this process goes through here.
