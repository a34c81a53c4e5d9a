//! One order, from the account to the certificate (RFC 8555 section 7.4).

use std::path::PathBuf;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationHandle, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use serde::{Deserialize, Serialize};

use super::super::disk;
use super::client::Http;
use super::storage::{self, Lock, Proof};
use super::{Kind, Trouble};
use crate::limits::{ACME_ORDER_MS, ACME_SPREAD_MS};
use crate::tls::managed::{Method, Proofs, Settings, proof_handshake};

/// The account as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    email: Option<String>,
    credentials: AccountCredentials,
}

/// Orders a certificate for a name: its chain and its key, as PEM.
pub async fn order(settings: &Settings, name: &str, proofs: &Proofs, lock: &Lock) -> Result<String, Trouble> {
    let http = Http::new(settings.authorities.as_deref()).map_err(|what| Trouble::new(Kind::Refused, what))?;
    let mut ordered = Box::pin(attempt(settings, name, proofs, lock, &http)).await;
    if ordered.as_ref().is_err_and(|trouble| trouble.account_is_gone) {
        // The authority knows the account no more: once more with another one.
        let file = account_file(settings);
        let old = file.with_extension("old.json");
        let put_away = std::fs::rename(&file, old).map_err(|error| Trouble::new(Kind::Storage, error));
        ordered = match put_away {
            Ok(()) => Box::pin(attempt(settings, name, proofs, lock, &http)).await,
            Err(trouble) => Err(trouble),
        };
    }
    ordered.map_err(|trouble| Trouble { retry_after_s: http.retry_after_s(), ..trouble })
}

async fn attempt(
    settings: &Settings,
    name: &str,
    proofs: &Proofs,
    lock: &Lock,
    http: &Http,
) -> Result<String, Trouble> {
    let account = account(settings, http).await?;
    let names = [Identifier::Dns(name.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&names)).await.map_err(of)?;
    let mut shown = Shown { settings, proofs, name, tokens: Vec::new() };
    {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let authorization = authorization.map_err(of)?;
            prove(authorization, settings.method, &mut shown).await?;
        }
    }
    let patience = RetryPolicy::new().timeout(Duration::from_millis(ACME_ORDER_MS));
    let status = order.state().status;
    if !matches!(status, OrderStatus::Ready | OrderStatus::Valid) {
        match order.poll_ready(&patience).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(refusal(&mut order, None).await),
            Err(Error::Api(problem)) => return Err(refusal(&mut order, Some(problem)).await),
            Err(error) => return Err(of(error)),
        }
    }
    if !lock.is_ours() {
        return Err(Trouble::new(Kind::Storage, "another process has taken the lock"));
    }
    let key = order.finalize().await.map_err(of)?;
    let chain = order.poll_certificate(&patience).await.map_err(of)?;
    Ok(format!("{chain}\n{key}"))
}

/// What is shown to the authority; taken away when the order ends, however it does.
struct Shown<'a> {
    settings: &'a Settings,
    proofs: &'a Proofs,
    name: &'a str,
    tokens: Vec<String>,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        for token in &self.tokens {
            self.proofs.remove(token, self.name);
            storage::remove_proof(self.settings, token);
        }
    }
}

async fn prove(
    mut authorization: AuthorizationHandle<'_>,
    method: Method,
    shown: &mut Shown<'_>,
) -> Result<(), Trouble> {
    match authorization.status {
        AuthorizationStatus::Pending => {}
        AuthorizationStatus::Valid => return Ok(()),
        _ => return Err(Trouble::new(Kind::Refused, "the authority has closed the authorization")),
    }
    let kind = match method {
        Method::Http01 => ChallengeType::Http01,
        Method::TlsAlpn01 => ChallengeType::TlsAlpn01,
    };
    let Some(mut challenge) = authorization.challenge(kind) else {
        return Err(Trouble::new(Kind::Refused, format!("the authority does not offer {}", method.word())));
    };
    let token = challenge.token.clone();
    if !storage::is_token(&token) {
        return Err(Trouble::new(Kind::Refused, "the authority's token is none"));
    }
    let text = challenge.key_authorization().as_str().to_owned();
    let proof = Proof { token: token.clone(), name: shown.name.to_owned(), method: method.word().to_owned(), text };
    shown.tokens.push(token);
    show(shown.proofs, &proof).map_err(|what| Trouble::new(Kind::Refused, what))?;
    storage::write_proof(shown.settings, &proof).map_err(|error| Trouble::new(Kind::Storage, error))?;
    tokio::time::sleep(Duration::from_millis(ACME_SPREAD_MS)).await;
    challenge.set_ready().await.map_err(of)
}

/// Answers whoever asks for a proof, from now on.
pub fn show(proofs: &Proofs, proof: &Proof) -> Result<(), String> {
    let added = if proof.method == Method::Http01.word() {
        proofs.add_request(&proof.token, &proof.text)
    } else {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, proof.text.as_bytes());
        proofs.add_handshake(&proof.name, proof_handshake(&proof.name, digest.as_ref())?)
    };
    if added { Ok(()) } else { Err("too much is to be proved at once".to_owned()) }
}

/// Why an order became invalid: what the authority says of the challenges that failed.
async fn refusal(order: &mut Order, problem: Option<Problem>) -> Trouble {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { break };
        let failed = state.challenges.iter().find_map(|challenge| challenge.error.clone());
        if let Some(problem) = failed {
            return Trouble { kind: Kind::Challenge, ..of(Error::Api(problem)) };
        }
    }
    match problem {
        Some(problem) => of(Error::Api(problem)),
        None => Trouble::new(Kind::Challenge, "the authority has refused the order"),
    }
}

fn account_file(settings: &Settings) -> PathBuf {
    settings.storage.join("account.json")
}

/// The account that is kept, or a new one.
async fn account(settings: &Settings, http: &Http) -> Result<Account, Trouble> {
    let builder = || Account::builder_with_http(Box::new(http.clone()));
    let file = account_file(settings);
    let contact: Vec<String> = settings.email.iter().map(|email| format!("mailto:{email}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let keep = |kept: &Kept| {
        let written = serde_json::to_vec(kept).map_err(std::io::Error::from);
        written.and_then(|bytes| disk::write(&file, &bytes)).map_err(|error| Trouble::new(Kind::Storage, error))
    };
    if let Some(bytes) = storage::read(&file) {
        let broken = |error| Trouble::new(Kind::Storage, format!("{}: {error}", file.display()));
        let mut kept: Kept = serde_json::from_slice(&bytes).map_err(broken)?;
        let again: Kept = serde_json::from_slice(&bytes).map_err(broken)?;
        let account = builder().from_credentials(again.credentials).await.map_err(of)?;
        if kept.email != settings.email {
            account.update_contacts(&contact).await.map_err(of)?;
            kept.email.clone_from(&settings.email);
            keep(&kept)?;
        }
        return Ok(account);
    }
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let binding = settings.binding.as_ref().map(|(id, key)| ExternalAccountKey::new(id.clone(), key));
    let created = builder().create(&wanted, settings.directory.clone(), binding.as_ref()).await;
    let (account, credentials) = created.map_err(of)?;
    keep(&Kept { email: settings.email.clone(), credentials })?;
    Ok(account)
}

/// What an error of the library means.
fn of(error: Error) -> Trouble {
    let kind = match &error {
        Error::Api(problem) => kind_of(problem.r#type.as_deref().unwrap_or_default()),
        Error::Timeout(_) => Kind::Timeout,
        Error::Other(_) | Error::Http(_) => Kind::Unreachable,
        _ => Kind::Refused,
    };
    let account_is_gone = matches!(&error, Error::Api(problem)
        if problem.r#type.as_deref().is_some_and(|word| word.ends_with(":accountDoesNotExist")));
    Trouble { account_is_gone, ..Trouble::new(kind, error) }
}

/// By the last word of a problem's type (RFC 8555 section 6.7).
fn kind_of(problem: &str) -> Kind {
    match problem.rsplit(':').next().unwrap_or_default() {
        "rateLimited" => Kind::RateLimited,
        "caa" | "connection" | "dns" | "incorrectResponse" | "tls" | "unauthorized" => Kind::Challenge,
        "serverInternal" => Kind::Unreachable,
        _ => Kind::Refused,
    }
}
