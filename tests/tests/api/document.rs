//! The OpenAPI document of the API, and whether a process keeps to it.

use std::collections::BTreeSet;

use me2_tests::{Vm, api::Answer};
use serde_json::{Value, json};

pub struct Document {
    whole: Value,
    /// Requests and the status of their answers.
    seen: BTreeSet<(String, String, u16)>,
}

impl Document {
    pub fn parse(text: &str) -> Self {
        let whole: Value = serde_json::from_str(text).expect("JSON");
        let version = whole["openapi"].as_str().expect("a version");
        assert!(version.starts_with("3.1."), "{version}");
        Self {
            whole,
            seen: BTreeSet::new(),
        }
    }

    /// Asks; the answer must be one that is documented. Gives its status.
    pub fn ask(&mut self, vm: &Vm, method: &str, path: &str, body: &str) -> u16 {
        let answer = vm.ask(method, path, body);
        let path = path.split('?').next().expect("the first part");
        self.check_head(method, path, &answer);
        if answer.content_type == "application/json" {
            let schema =
                self.response(method, path, &answer)["content"]["application/json"]["schema"]
                    .clone();
            self.check(&schema, &answer.json(), &format!("{method} {path}"));
        }
        answer.status
    }

    /// An answer has a status and a type that are documented for it.
    pub fn check_head(&mut self, method: &str, path: &str, answer: &Answer) {
        let content = &self.response(method, path, answer)["content"];
        assert!(
            content.get(&answer.content_type).is_some(),
            "{method} {path}: {answer:?} is not in {content}"
        );
        let seen = (method.to_owned(), path.to_owned(), answer.status);
        self.seen.insert(seen);
    }

    fn response(&self, method: &str, path: &str, answer: &Answer) -> &Value {
        let operation = &self.whole["paths"][path][method.to_lowercase()];
        let responses = &operation["responses"];
        let class = format!("{}XX", answer.status / 100);
        let found = responses
            .get(answer.status.to_string())
            .or(responses.get(class));
        found.unwrap_or_else(|| panic!("{method} {path}: {answer:?} is not in {responses}"))
    }

    /// What is sent is as documented, too.
    pub fn check_request(&self, path: &str, body: &Value) {
        let request = &self.whole["paths"][path]["post"]["requestBody"];
        let schema = &request["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path}: {request}");
        self.check(schema, body, path);
    }

    /// It is as the schema of this name says.
    pub fn check_schema(&self, name: &str, value: &Value) {
        let schema = json!({"$ref": format!("#/components/schemas/{name}")});
        self.check(&schema, value, name);
    }

    fn check(&self, schema: &Value, value: &Value, what: &str) {
        // References into the document are meant, so the schema must be a part of it.
        let mut root = schema.clone();
        root["components"] = self.whole["components"].clone();
        let validator = jsonschema::draft202012::new(&root);
        let validator = validator.unwrap_or_else(|error| panic!("{what}: {error}: {schema}"));
        let errors: Vec<_> = validator
            .iter_errors(value)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:?} in {value}");
        let mut names = BTreeSet::new();
        self.names(schema, &mut names, 0);
        self.check_names(value, &names, what);
    }

    /// Names of properties that a schema knows anywhere.
    fn names(&self, schema: &Value, into: &mut BTreeSet<String>, depth: u32) {
        assert!(depth < 50, "a schema that refers to itself");
        match schema {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    let pointer = reference.strip_prefix('#').expect("within the document");
                    let target = self.whole.pointer(pointer);
                    let target = target.unwrap_or_else(|| panic!("no {reference}"));
                    self.names(target, into, depth + 1);
                }
                if let Some(Value::Object(properties)) = members.get("properties") {
                    into.extend(properties.keys().cloned());
                }
                let others = members.values();
                others.for_each(|member| self.names(member, into, depth + 1));
            }
            Value::Array(parts) => {
                let parts = parts.iter();
                parts.for_each(|part| self.names(part, into, depth + 1));
            }
            _ => {}
        }
    }

    /// There is nothing that no schema mentions.
    fn check_names(&self, value: &Value, names: &BTreeSet<String>, what: &str) {
        match value {
            // The OpenAPI document itself is any object.
            _ if names.is_empty() => {}
            Value::Object(members) => {
                for (name, member) in members {
                    assert!(names.contains(name), "{what}: {name} is not documented");
                    self.check_names(member, names, what);
                }
            }
            Value::Array(parts) => {
                let parts = parts.iter();
                parts.for_each(|part| self.check_names(part, names, what));
            }
            _ => {}
        }
    }

    fn operations(&self) -> impl Iterator<Item = (String, String)> {
        let paths = self.whole["paths"].as_object().expect("paths");
        paths.iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods");
            let operation = |method: &String| (method.to_uppercase(), path.clone());
            methods.keys().map(operation)
        })
    }

    /// What is documented has a handler, and no path has one for what is not.
    pub fn check_methods(&self, vm: &Vm) {
        let documented: BTreeSet<_> = self.operations().collect();
        for (_, path) in &documented {
            for method in ["PUT", "DELETE", "PATCH"] {
                assert_eq!(vm.ask(method, path, "").status, 405, "{method} {path}");
            }
            for method in ["GET", "POST"] {
                let is_documented = documented.contains(&(method.to_owned(), path.clone()));
                if !is_documented {
                    assert_eq!(vm.ask(method, path, "").status, 405, "{method} {path}");
                }
            }
        }
        for path in ["/", "/v1", "/v1/shutdown", "/v2/status", "/openapi"] {
            assert_eq!(vm.ask("GET", path, "").status, 404, "{path}");
        }
    }

    /// Every operation was asked for, and each but these has succeeded.
    pub fn check_all_seen(&self, only_refused: &[(&str, &str)]) {
        for (method, path) in self.operations() {
            let statuses: Vec<_> = self
                .seen
                .iter()
                .filter(|(of, at, _)| (of, at) == (&method, &path))
                .map(|(_, _, status)| *status)
                .collect();
            assert!(!statuses.is_empty(), "{method} {path} was never asked for");
            let may_fail = only_refused.contains(&(&method, &path));
            let succeeded = statuses.iter().any(|status| *status < 300);
            assert!(succeeded || may_fail, "{method} {path}: {statuses:?}");
        }
    }
}
