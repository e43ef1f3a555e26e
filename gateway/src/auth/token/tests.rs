//! Tokens as they should be, as they should not, and as attackers make them: reference/trust §2.4 and lists A1, A2, A5 to A7
//! and A10 of §2.13. `tests/vectors/tokens.json` was made by an implementation of cryptography that is not ours.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hookfleet_contract::time::Timestamp;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{algorithm::Algorithm, keeper::Fetching, key_set::KeySet, *};
use crate::auth::{
    principal::Reach,
    scope::{Scope, Scopes},
};

const VECTORS: &str = include_str!("../../../../tests/vectors/tokens.json");
const NOW: Timestamp = Timestamp(1_767_323_045_000);
const ISSUER: &str = "https://login.example.com/";
const HEADER: &str = r#"{"alg": "EdDSA", "kid": "own"}"#;

#[derive(Deserialize)]
struct Vectors {
    jwks: Value,
    good: HashMap<String, String>,
    bad: HashMap<String, Bad>,
}

#[derive(Deserialize)]
struct Bad {
    token: String,
    refusal: String,
}

fn vectors() -> (Vectors, KeySet) {
    let vectors: Vectors = serde_json::from_str(VECTORS).unwrap();
    let keys = KeySet::read(vectors.jwks.to_string().as_bytes()).unwrap();
    (vectors, keys)
}

fn issuer() -> Issuer {
    let reaches = [
        ("org_1", Reach::Tenant("acme".parse().unwrap())),
        ("ops", Reach::Fleet),
    ];
    Issuer {
        issuer: ISSUER.to_owned(),
        audience: "hookfleet".to_owned(),
        algorithms: Algorithm::ALL.to_vec(),
        typ: None,
        tenant_claim: "org".to_owned(),
        reaches: reaches.map(|(it, reach)| (it.to_owned(), reach)).into(),
        scopes: [Scope::SubscriptionsRead].into_iter().collect(),
        scopes_claim: Some("scope".to_owned()),
        jwks_url: Some("https://login.example.com/keys".to_owned()),
    }
}

fn open_by(
    issuer: &Issuer,
    keys: &KeySet,
    token: &str,
    now: Timestamp,
) -> Result<Principal, Refusal> {
    issuer.verify(&Jws::parse(token)?, keys, now)
}

/// A provider with a key of its own.
fn own() -> (Ed25519KeyPair, KeySet) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let keys = KeySet::read(document(&["own"]).as_bytes()).unwrap();
    (pair, keys)
}

/// The same key under each of these names.
fn document(ids: &[&str]) -> String {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let key = |id| json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x});
    let keys: Vec<_> = ids.iter().map(key).collect();
    json!({ "keys": keys }).to_string()
}

fn sign(header: &str, claims: &str) -> String {
    let (pair, _) = own();
    let signed = [header, claims]
        .map(|it| URL_SAFE_NO_PAD.encode(it))
        .join(".");
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// What a good token claims.
fn claims() -> Value {
    let now = NOW.unix_seconds();
    json!({
        "iss": ISSUER, "aud": "hookfleet", "sub": "alice", "iat": now - 10, "exp": now + 3600,
        "nbf": now - 10, "org": "org_1", "scope": "events.publish openid",
    })
}

fn open(token: &str) -> Result<Principal, Refusal> {
    open_by(&issuer(), &own().1, token, NOW)
}

fn open_claims(claims: &Value) -> Result<Principal, Refusal> {
    open(&sign(HEADER, &claims.to_string()))
}

#[test]
fn a_token_of_each_algorithm_is_taken_from_an_issuer_that_may_use_it() {
    let (vectors, keys) = vectors();
    assert_eq!(vectors.good.len(), Algorithm::ALL.len());
    for (name, token) in &vectors.good {
        let principal = open_by(&issuer(), &keys, token, NOW).unwrap();
        assert_eq!(principal.subject(), "https://login.example.com/ alice");
        assert_eq!(principal.reach(), &Reach::Tenant("acme".parse().unwrap()));
        let scopes: Scopes = [Scope::SubscriptionsRead, Scope::EventsPublish]
            .into_iter()
            .collect();
        assert_eq!(principal.scopes(), scopes);
        let others = Algorithm::ALL.into_iter().filter(|it| it.as_str() != name);
        let strict = Issuer {
            algorithms: others.collect(),
            ..issuer()
        };
        assert_eq!(open_by(&strict, &keys, token, NOW), Err(Refusal::Algorithm));
    }
}

#[test]
fn nothing_else_passes_for_a_signature() {
    let (vectors, keys) = vectors();
    assert!(vectors.bad.len() > 20);
    for (name, Bad { token, refusal }) in &vectors.bad {
        let opened = open_by(&issuer(), &keys, token, NOW).unwrap_err();
        assert_eq!(format!("{opened:?}"), *refusal, "{name}");
    }
}

#[test]
fn a_token_that_was_altered_anywhere_is_refused() {
    let (vectors, keys) = vectors();
    for (name, token) in &vectors.good {
        let is_refused = |token: &str| open_by(&issuer(), &keys, token, NOW).is_err();
        for end in 0..token.len() {
            assert!(is_refused(&token[..end]), "{name} cut off at {end}");
        }
        for at in 0..token.len() {
            let mut altered = token.clone().into_bytes();
            altered[at] ^= 1;
            let altered = String::from_utf8(altered).unwrap();
            assert!(is_refused(&altered), "{name} altered at {at}");
        }
        for suffix in ["A", "AAAA", "=", ".", ".AAAA", " ", "\n"] {
            assert!(is_refused(&format!("{token}{suffix}")), "{name}{suffix:?}");
        }
        // The signature of another token.
        let (signed, _) = token.rsplit_once('.').unwrap();
        for other in vectors.good.values().filter(|it| *it != token) {
            let (_, signature) = other.rsplit_once('.').unwrap();
            assert!(is_refused(&format!("{signed}.{signature}")), "{name}");
        }
    }
}

#[test]
fn a_claim_of_the_wrong_type_is_never_as_good_as_the_right_one() {
    let values = [
        "null",
        "true",
        "\"\"",
        "\"text\"",
        "\"1767326645\"",
        "0",
        "-1",
        "7",
        "1e300",
        "-1e300",
        "99999999999999999999",
        "[]",
        "[7]",
        "[\"text\", null]",
        "{}",
    ];
    // A subject may be any text, providers have scopes that mean nothing here, and long ago is before now.
    let right = [
        ("sub", "\"text\""),
        ("sub", "\"1767326645\""),
        ("scope", "\"\""),
        ("scope", "\"text\""),
        ("scope", "\"1767326645\""),
        ("scope", "[]"),
        ("nbf", "0"),
        ("nbf", "7"),
    ];
    let whole = claims();
    assert!(open_claims(&whole).is_ok());
    for name in whole.as_object().unwrap().keys() {
        for value in values {
            let mut claims = whole.clone();
            claims[name] = serde_json::from_str(value).unwrap();
            let is_right = right.contains(&(name, value));
            let opened = open_claims(&claims);
            assert_eq!(opened.is_ok(), is_right, "{name}: {value}: {opened:?}");
        }
        let mut without = whole.clone();
        without.as_object_mut().unwrap().remove(name);
        let may_be_missing = ["nbf", "scope"].contains(&name.as_str());
        assert_eq!(open_claims(&without).is_ok(), may_be_missing, "{name}");
        // Twice, plainly and in disguise; and numbers that JSON does not have.
        let text = whole.to_string();
        let (first, rest) = name.split_at(1);
        let disguised = format!("\\u{:04x}{rest}", u32::from(first.as_bytes()[0]));
        for name in [name, &disguised] {
            let twice = format!(
                "{},\"{name}\":{}}}",
                &text[..text.len() - 1],
                whole[name.as_str()]
            );
            assert_eq!(
                open(&sign(HEADER, &twice)),
                Err(Refusal::Malformed),
                "{twice}"
            );
        }
        let nan = without.to_string();
        let nan = format!("{},\"{name}\":NaN}}", &nan[..nan.len() - 1]);
        assert_eq!(open(&sign(HEADER, &nan)), Err(Refusal::Malformed), "{nan}");
    }
    for aud in [json!(["hookfleet"]), json!(["other", "hookfleet"])] {
        let mut claims = whole.clone();
        claims["aud"] = aud;
        assert!(open_claims(&claims).is_ok());
    }
    for iss in ["https://login.example.com", "https://LOGIN.example.com/"] {
        let mut claims = whole.clone();
        claims["iss"] = json!(iss);
        assert_eq!(open_claims(&claims), Err(Refusal::Issuer), "{iss}");
    }
    for sub in ["x".repeat(256), "a\nb".to_owned(), "\u{85}".to_owned()] {
        let mut claims = whole.clone();
        claims["sub"] = json!(sub);
        assert_eq!(open_claims(&claims), Err(Refusal::Subject));
    }
}

#[test]
fn clocks_may_be_a_minute_apart_and_not_more() {
    let now = NOW.unix_seconds();
    for (begin, end, expected) in [
        (now - 3600, now - 59, None),
        (now - 3600, now - 60, Some(Refusal::Expired)),
        (now - 3600, now - 61, Some(Refusal::Expired)),
        (now + 60, now + 3600, None),
        (now + 61, now + 3600, Some(Refusal::NotYet)),
        (now, now + 86_400, None),
        (now, now + 86_401, Some(Refusal::Lifetime)),
        (now, now, Some(Refusal::Lifetime)),
        (now, now - 1, Some(Refusal::Lifetime)),
    ] {
        let mut claims = claims();
        claims["exp"] = json!(end);
        claims["iat"] = json!(begin);
        assert_eq!(open_claims(&claims).err(), expected, "{begin} to {end}");
        // Not before is as good a reason.
        claims["iat"] = json!(now.min(begin));
        claims["nbf"] = json!(begin);
        let is_late = expected == Some(Refusal::NotYet);
        assert_eq!(
            open_claims(&claims).err() == expected,
            is_late || begin <= now || expected.is_none()
        );
    }
}

#[test]
fn a_header_that_asks_for_more_is_refused_and_one_that_points_elsewhere_is_not_followed() {
    let payload = claims().to_string();
    for more in [
        r#""crit": ["exp"]"#,
        r#""crit": []"#,
        r#""b64": false"#,
        r#""zip": "DEF""#,
        r#""enc": "A256GCM""#,
        r#""cty": "JWT""#,
        r#""alg": "EdDSA""#,
        r#""kid": "own""#,
        r#""typ": 7"#,
    ] {
        let header = format!(r#"{{"alg": "EdDSA", "kid": "own", {more}}}"#);
        assert_eq!(
            open(&sign(&header, &payload)),
            Err(Refusal::Malformed),
            "{more}"
        );
    }
    for header in [
        r#"{"alg": "EdDSA"}"#,
        r#"{"kid": "own"}"#,
        r#"{"alg": "EdDSA", "kid": ""}"#,
        r#"{"alg": "EdDSA", "kid": 7}"#,
        r#"{"alg": ["EdDSA"], "kid": "own"}"#,
        r#"["EdDSA", "own"]"#,
        r#"{"alg": "EdDSA", "kid": "own"} {}"#,
    ] {
        assert_eq!(
            open(&sign(header, &payload)),
            Err(Refusal::Malformed),
            "{header}"
        );
    }
    for more in [
        r#""jku": "https://evil.example/keys""#,
        r#""x5u": "https://evil.example/chain""#,
        r#""x5c": ["MIIB"]"#,
        r#""jwk": {"kty": "oct", "k": "AA"}"#,
    ] {
        let header = format!(r#"{{"alg": "EdDSA", "kid": "own", {more}}}"#);
        assert!(open(&sign(&header, &payload)).is_ok(), "{more}");
    }
}

#[test]
fn a_token_of_another_purpose_is_refused() {
    let strict = Issuer {
        typ: Some("at+jwt".to_owned()),
        ..issuer()
    };
    for (typ, is_any, is_strict) in [
        (None, true, false),
        (Some("JWT"), true, false),
        (Some("at+jwt"), true, true),
        (Some("application/AT+JWT"), true, true),
        (Some("logout+jwt"), false, false),
        (Some("dpop+jwt"), false, false),
        (Some(""), false, false),
    ] {
        let typ_member = typ
            .map(|it| format!(r#", "typ": "{it}""#))
            .unwrap_or_default();
        let header = format!(r#"{{"alg": "EdDSA", "kid": "own"{typ_member}}}"#);
        let token = sign(&header, &claims().to_string());
        assert_eq!(open(&token).is_ok(), is_any, "{typ:?}");
        let opened = open_by(&strict, &own().1, &token, NOW);
        assert_eq!(opened.is_ok(), is_strict, "{typ:?}");
    }
}

#[test]
fn there_is_one_way_to_write_a_token() {
    let token = sign(HEADER, &claims().to_string());
    assert!(open(&token).is_ok());
    let parts: Vec<_> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        panic!("three parts");
    };
    // 64 bytes leave four bits that mean nothing, which must not be set.
    assert!(signature.ends_with(['A', 'Q', 'g', 'w']));
    let last = char::from(signature.as_bytes()[signature.len() - 1] + 1);
    let loose = format!("{}{last}", &signature[..signature.len() - 1]);
    for other in [
        format!("{header}.{payload}.{loose}"),
        format!("{header}.{payload}.{signature}=="),
        format!("{header}.{payload}.{signature}.x"),
        format!("{header}.{payload}"),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!(" {token}"),
        format!("{header}\n.{payload}.{signature}"),
        "..".to_owned(),
        String::new(),
        // Encrypted ones have five parts.
        format!("{header}.a.b.c.d"),
    ] {
        assert_eq!(open(&other), Err(Refusal::Malformed), "{other}");
    }
    let mut long = claims();
    long["filler"] = json!("x".repeat(8 << 10));
    assert_eq!(open_claims(&long), Err(Refusal::Malformed));
}

#[test]
fn a_token_reaches_what_the_operator_says_and_no_more() {
    let mut claims = claims();
    claims["scope"] = json!("system.admin tenants.admin agents.register attempts.read");
    let tenant = open_claims(&claims).unwrap();
    let expected: Scopes = [Scope::SubscriptionsRead, Scope::AttemptsRead]
        .into_iter()
        .collect();
    assert_eq!(tenant.scopes(), expected, "a tenant is no operator");
    claims["org"] = json!("ops");
    let operator = open_claims(&claims).unwrap();
    assert_eq!(operator.reach(), &Reach::Fleet);
    assert!(operator.scopes().allow(Scope::TenantsAdmin));
    for raw in ["acme", "tenants/acme", "org_2", "org_1 ", "Org_1", ""] {
        claims["org"] = json!(raw);
        assert_eq!(open_claims(&claims), Err(Refusal::NoTenant), "{raw}");
    }
}

#[test]
fn a_document_of_keys_is_read_as_far_as_it_is_of_use() {
    let (vectors, keys) = vectors();
    let n_published = vectors.jwks["keys"].as_array().unwrap().len();
    assert_eq!((n_published, keys.len()), (8, 4));
    let n_keys = |n: usize| {
        let ids: Vec<_> = (0..n).map(|it| it.to_string()).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        KeySet::read(document(&ids).as_bytes()).map(|it| it.len())
    };
    assert!(matches!(n_keys(100), Ok(100)));
    assert!(matches!(n_keys(101), Err(key_set::Error::TooMany(101))));
    for other in ["", "[]", "{}", r#"{"keys": {}}"#, "<html>"] {
        assert!(KeySet::read(other.as_bytes()).is_err(), "{other}");
    }
    // A key that says what it is for is used for nothing else.
    let mut jwks = vectors.jwks;
    let rsa = jwks["keys"].as_array_mut().unwrap();
    let rsa = rsa.iter_mut().find(|it| it["kid"] == "rsa").unwrap();
    rsa["alg"] = json!("PS256");
    let keys = KeySet::read(jwks.to_string().as_bytes()).unwrap();
    let open = |name: &str| open_by(&issuer(), &keys, &vectors.good[name], NOW);
    assert!(open("PS256").is_ok());
    assert_eq!(open("RS256"), Err(Refusal::Algorithm));
}

/// A provider that remembers what it was asked.
#[derive(Clone, Default)]
struct Provider(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    documents: HashMap<String, String>,
    asked: Vec<String>,
    hangs: bool,
}

impl Provider {
    fn publish(&self, url: &str, document: String) {
        let mut known = self.0.lock().unwrap();
        known.documents.insert(url.to_owned(), document);
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    fn trusted(&self, issuer: Issuer, clock: &Clock) -> Tokens {
        Tokens::start(vec![(issuer, Box::new(self.clone()))], clock)
    }
}

impl Fetch for Provider {
    fn get<'a>(&'a self, url: &'a str) -> Fetching<'a> {
        let mut known = self.0.lock().unwrap();
        known.asked.push(url.to_owned());
        if known.hangs {
            return Box::pin(std::future::pending());
        }
        let document = known.documents.get(url).cloned();
        Box::pin(async move { Ok(Bytes::from(document.ok_or("it is down")?)) })
    }
}

const KEYS: &str = "https://login.example.com/keys";

fn token_by(kid: &str) -> String {
    let header = format!(
        r#"{{"alg": "EdDSA", "kid": "{kid}", "jku": "https://evil.example/", "x5u": "https://evil.example/"}}"#
    );
    sign(&header, &claims().to_string())
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_invented_keys_asks_nobody_but_the_issuer_and_it_once() {
    let (provider, clock) = (Provider::default(), Clock::fixed(NOW));
    provider.publish(KEYS, document(&["own"]));
    let tokens = provider.trusted(issuer(), &clock);
    // The first waits until the keys are there.
    assert!(tokens.open(&token_by("own"), &clock).await.is_ok());
    clock.set(NOW + Duration::from_secs(31));
    for n in 0..1000 {
        let token = token_by(&format!("invented{n}"));
        let opened = tokens.open(&token, &clock).await;
        assert_eq!(opened, Err(Refusal::UnknownKey));
    }
    assert_eq!(provider.asked(), [KEYS, KEYS]);
    let mut elsewhere = claims();
    elsewhere["iss"] = json!("https://evil.example/");
    let token = sign(HEADER, &elsewhere.to_string());
    assert_eq!(tokens.open(&token, &clock).await, Err(Refusal::Issuer));
    assert_eq!(provider.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_when_its_first_token_comes() {
    let (provider, clock) = (Provider::default(), Clock::fixed(NOW));
    provider.publish(KEYS, document(&["own"]));
    let tokens = provider.trusted(issuer(), &clock);
    assert!(tokens.open(&token_by("own"), &clock).await.is_ok());
    provider.publish(KEYS, document(&["new"]));
    clock.set(NOW + Duration::from_secs(30));
    assert!(tokens.open(&token_by("new"), &clock).await.is_ok());
    let old = tokens.open(&token_by("own"), &clock).await;
    assert_eq!(old, Err(Refusal::UnknownKey));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_an_issuer_that_is_down_or_hangs() {
    let (provider, clock) = (Provider::default(), Clock::fixed(NOW));
    let tokens = provider.trusted(issuer(), &clock);
    let started = Instant::now();
    let opened = tokens.open(&token_by("own"), &clock).await;
    assert_eq!(
        (opened, started.elapsed()),
        (Err(Refusal::NotReady), Duration::ZERO)
    );
    provider.0.lock().unwrap().hangs = true;
    clock.set(NOW + Duration::from_secs(31));
    let opened = tokens.open(&token_by("own"), &clock).await;
    assert_eq!(opened, Err(Refusal::NotReady));
    assert!(started.elapsed() <= Duration::from_secs(4), "{started:?}");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_says_where_its_keys_are_for_nobody_but_itself() {
    let clock = Clock::fixed(NOW);
    let discovered = Issuer {
        jwks_url: None,
        ..issuer()
    };
    let discovery = "https://login.example.com/.well-known/openid-configuration";
    for (named, expected) in [
        (ISSUER, None),
        ("https://login.example.com", Some(Refusal::NotReady)),
        ("https://evil.example/", Some(Refusal::NotReady)),
    ] {
        let provider = Provider::default();
        let text = json!({"issuer": named, "jwks_uri": KEYS}).to_string();
        provider.publish(discovery, text);
        provider.publish(KEYS, document(&["own"]));
        let tokens = provider.trusted(discovered.clone(), &clock);
        let opened = tokens.open(&token_by("own"), &clock).await;
        assert_eq!(opened.err(), expected, "{named}");
        assert_eq!(provider.asked()[0], discovery);
    }
}
