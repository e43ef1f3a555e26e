//! Identity providers as they stand in the configuration, and what the gateway makes of them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Display,
    path::PathBuf,
    str::FromStr,
};

use hookfleet_contract::name::TenantId;
use hookfleet_egress::fetch::{self, Fetcher};
use hookfleet_gateway::{
    auth::{
        Auth,
        principal::Reach,
        token::{
            Tokens, issuer,
            keeper::{Fetch, Fetching},
        },
    },
    clock::Clock,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};

/// An identity provider: `[[issuers]]` in the file. What is missing or too much is found by [`problems`], all at once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Issuer {
    /// `iss` of its tokens, to the letter: a URL.
    issuer: String,
    /// What `aud` of its tokens must contain.
    audience: String,
    /// Where its keys are. Without, `{issuer}/.well-known/openid-configuration` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks_url: Option<String>,
    /// How its tokens may be signed: EdDSA, ES256, ES384, PS256, RS256.
    algorithms: Vec<String>,
    /// The `typ` that its tokens must have, such as `at+jwt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    /// What every token of it allows.
    scopes: Vec<String>,
    /// The claim that allows more: a list, or words with spaces between.
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes_claim: Option<String>,
    /// The claim that says whose things a token is about.
    tenant_claim: String,
    /// The values of it that are operators of the fleet.
    operators: Vec<String>,
    /// PEM files of certificate authorities to trust beside the public ones, for its keys.
    ca_files: Vec<PathBuf>,
    /// Its keys may be fetched by plain http from loopback.
    allow_loopback_http: bool,
    /// The values of it that are tenants, and which.
    tenants: BTreeMap<String, String>,
    #[serde(flatten, skip_serializing)]
    unknown: BTreeMap<String, IgnoredAny>,
}

/// The documents of one provider.
struct Documents(Fetcher);

/// Everything that is wrong with the providers.
pub(crate) fn problems(issuers: &[Issuer], authentication: bool) -> Vec<String> {
    let mut problems = Vec::new();
    if !(authentication || issuers.is_empty()) {
        let problem =
            "issuers: are of no use while nobody is asked who they are: set authentication";
        problems.push(problem.to_owned());
    }
    let mut names = HashSet::new();
    for (index, issuer) in issuers.iter().enumerate() {
        let mut found = Vec::new();
        if !names.insert(&issuer.issuer) {
            found.push("issuer: there is another of this name".to_owned());
        }
        issuer.read(&mut found);
        let found = found.into_iter().map(|it| format!("issuers[{index}].{it}"));
        problems.extend(found);
    }
    problems
}

/// Takes the tokens of these providers too.
pub(crate) fn trusted(auth: Auth, issuers: &[Issuer]) -> anyhow::Result<Auth> {
    if issuers.is_empty() {
        return Ok(auth);
    }
    let issuers = issuers.iter().map(|it| {
        let fetch: Box<dyn Fetch> = Box::new(Documents(Fetcher::new(&it.fetch())?));
        Ok((it.read(&mut Vec::new()), fetch))
    });
    let issuers = issuers.collect::<Result<_, fetch::Error>>()?;
    Ok(auth.with_tokens(Tokens::start(issuers, &Clock::system())))
}

// === impl Issuer ===

impl Issuer {
    /// What is right of it, and what is not.
    fn read(&self, problems: &mut Vec<String>) -> issuer::Issuer {
        let unknown = self.unknown.keys();
        problems.extend(unknown.map(|it| format!("{it}: is not a setting of an issuer")));
        for (name, value) in [
            ("audience", &self.audience),
            ("tenant_claim", &self.tenant_claim),
        ] {
            if value.is_empty() {
                problems.push(format!("{name}: is required"));
            }
        }
        if self.algorithms.is_empty() {
            problems.push("algorithms: is required".to_owned());
        }
        if self.tenants.is_empty() && self.operators.is_empty() {
            problems.push("tenants: is required, or operators: else no token is of use".to_owned());
        }
        self.check_places(problems);
        issuer::Issuer {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            algorithms: parsed("algorithms", &self.algorithms, problems),
            typ: self.typ.clone(),
            tenant_claim: self.tenant_claim.clone(),
            reaches: self.reaches(problems),
            scopes: parsed("scopes", &self.scopes, problems)
                .into_iter()
                .collect(),
            scopes_claim: self.scopes_claim.clone(),
            jwks_url: self.jwks_url.clone(),
        }
    }

    fn check_places(&self, problems: &mut Vec<String>) {
        // A subject begins with its issuer: one that is a URL is never taken for a key or an agent.
        let is_url = ["https://", "http://"].map(|it| self.issuer.starts_with(it));
        if !is_url.contains(&true) {
            problems.push("issuer: must be a URL".to_owned());
        }
        let (name, url) = match &self.jwks_url {
            Some(url) => ("jwks_url", url),
            None => ("issuer", &self.issuer),
        };
        if let Err(error) = self.fetch().check(url) {
            problems.push(format!("{name}: {error}"));
        }
        for file in self.ca_files.iter().filter(|file| !file.is_file()) {
            problems.push(format!("ca_files: {} is not a file", file.display()));
        }
    }

    fn reaches(&self, problems: &mut Vec<String>) -> HashMap<String, Reach> {
        let mut reaches = HashMap::new();
        for (value, tenant) in &self.tenants {
            match tenant.parse::<TenantId>() {
                Ok(tenant) => drop(reaches.insert(value.clone(), Reach::Tenant(tenant))),
                Err(error) => problems.push(format!("tenants: {value} = {tenant}: {error}")),
            }
        }
        for value in &self.operators {
            if reaches.insert(value.clone(), Reach::Fleet).is_some() {
                problems.push(format!("operators: {value} is a tenant, or stands twice"));
            }
        }
        reaches
    }

    fn fetch(&self) -> fetch::Config {
        fetch::Config {
            ca_files: self.ca_files.clone(),
            allow_loopback_http: self.allow_loopback_http,
        }
    }
}

fn parsed<T: FromStr<Err: Display>>(
    name: &str,
    texts: &[String],
    problems: &mut Vec<String>,
) -> Vec<T> {
    let parsed = texts.iter().filter_map(|it| {
        let parsed = it.parse();
        parsed
            .map_err(|error: T::Err| problems.push(format!("{name}: {error}")))
            .ok()
    });
    parsed.collect()
}

// === impl Documents ===

impl Fetch for Documents {
    fn get<'a>(&'a self, url: &'a str) -> Fetching<'a> {
        Box::pin(async move { Ok(self.0.get(url).await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const GOOD: &str = "authentication = true
[[issuers]]
issuer = 'https://login.example.com/'
audience = 'hookfleet'
algorithms = ['ES256', 'EdDSA']
typ = 'at+jwt'
tenant_claim = 'org'
tenants = { org_1 = 'acme', 'org 2' = 'globex' }
operators = ['ops']
scopes = ['events.publish']
scopes_claim = 'scope'
";

    fn load(text: &str) -> anyhow::Result<config::Standalone> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        let flags = BTreeMap::<String, String>::new();
        config::load(config::Standalone::default(), Some(file.path()), &flags)
    }

    #[test]
    fn what_is_printed_is_the_file_that_gives_it() {
        let config = load(GOOD).unwrap();
        assert_eq!(config.issuers[0].tenants["org 2"], "globex");
        assert_eq!(config.issuers[0].algorithms.len(), 2);
        let printed = toml::to_string(&config).unwrap();
        let again = toml::to_string(&load(&printed).unwrap()).unwrap();
        assert_eq!(again, printed);
        let named = GOOD.lines().filter_map(|it| it.split_once(" = "));
        for (name, _) in named {
            assert!(printed.contains(name), "{name} is missing in {printed}");
        }
        let none = toml::to_string(&config::Standalone::default()).unwrap();
        assert_eq!(toml::to_string(&load(&none).unwrap()).unwrap(), none);
    }

    #[test]
    fn everything_that_is_wrong_with_an_issuer_is_said_at_once() {
        let error = load(
            "segment_mib = 0
[[issuers]]
issuer = 'login.example.com'
jwks_url = 'http://127.0.0.1/keys'
algorithms = ['HS256', 'none']
scopes = ['everything']
operators = ['org_1']
tenants = { org_1 = 'acme', org_2 = 'Not A Tenant' }
ca_files = ['/nowhere/ca.pem']
tenant-claim = 'org'
[[issuers]]
issuer = 'http://login.example.com'
audience = 'hookfleet'
algorithms = ['ES256']
tenant_claim = 'org'
[[issuers]]
issuer = 'http://login.example.com'
allow_loopback_http = true
",
        );
        let error = error.unwrap_err().to_string();
        for problem in [
            "segment_mib: must",
            "issuers: are of no use",
            "issuers[0].tenant-claim: is not a setting",
            "issuers[0].audience: is required",
            "issuers[0].tenant_claim: is required",
            "issuers[0].issuer: must be a URL",
            "issuers[0].jwks_url: the URL must begin with https://",
            "issuers[0].algorithms: \"HS256\" is not",
            "issuers[0].algorithms: \"none\" is not",
            "issuers[0].scopes: \"everything\" is not",
            "issuers[0].operators: org_1 is a tenant",
            "issuers[0].tenants: org_2 = Not A Tenant",
            "issuers[0].ca_files: /nowhere/ca.pem is not a file",
            "issuers[1].tenants: is required",
            "issuers[1].issuer: the URL must begin with https://",
            "issuers[2].issuer: there is another",
            "issuers[2].issuer: the URL must begin with https://",
            "issuers[2].algorithms: is required",
        ] {
            assert!(error.contains(problem), "{problem} is missing in {error}");
        }
        assert!(load(GOOD).is_ok());
        assert!(load("issuer = []").is_err());
    }
}
