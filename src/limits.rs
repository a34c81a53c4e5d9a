//! Every bound of the process, with the default that users get.
