//! stub
use super::{Compile, CompileEnv, Hooks, WorkerSeed};
/// stub
#[derive(Clone, Debug, Default)]
pub struct Config;
/// stub
pub struct RateLimit;
impl Compile for RateLimit {
    type Config = Config;
    fn compile(_: &Config, _: &CompileEnv) -> Result<Self, String> {
        Ok(Self)
    }
}
impl Hooks for RateLimit {
    type State = ();
    fn new_state(&self, _: &WorkerSeed) {}
    fn explain(&self) -> String {
        String::new()
    }
}
