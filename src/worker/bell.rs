//! A worker hears that requests of its own, which wait at a limit, have got a place on another worker.

use std::rc::Rc;

use monoio::io::AsyncReadRent;

use super::run::Shared;
use crate::concurrency::bell;

/// Listens until the worker ends. Where that is impossible, requests that wait find out at the next tick.
pub async fn listen(shared: Rc<Shared>, worker: u32, on_ring: bool) {
    let Ok(socket) = bell::hang(worker) else { return };
    let ready = socket.set_nonblocking(!on_ring);
    let Ok(mut socket) = ready.and_then(|()| monoio::net::UnixStream::from_std(socket)) else { return };
    let mut bytes = vec![0; 64];
    loop {
        let (count, back) = socket.read(bytes).await;
        bytes = back;
        if !matches!(count, Ok(count) if count > 0) {
            return;
        }
        bell::answered(worker);
        shared.env.waiting.rung();
    }
}
