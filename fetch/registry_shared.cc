// SPDX-License-Identifier: Apache-2.0
#include "fetch/registry_shared.h"

#include <utility>

#include "base/log.h"
#include "base/text.h"
#include "fetch/bounded_table.h"

namespace imagefs {

RegistryShared::RegistryShared(HttpClient& http_client, Executor& answer_executor,
                               const SourceFactory::Options& source_options)
    : http(http_client),
      answers(answer_executor),
      options(source_options),
      resolver(source_options.hosts),
      tokens(http_client, {source_options.max_attempts, source_options.first_backoff, nullptr}),
      refreshes(http_client) {}

RegistryShared::Host& RegistryShared::HostState(const std::string& host) {
  const auto it = hosts.find(host);
  if (it != hosts.end()) return it->second;
  BoundTable(hosts);
  return hosts[host];
}

RegistryShared::Root& RegistryShared::RootOf(const std::string& host) {
  const auto it = roots.find(host);
  if (it != roots.end()) return it->second;
  if (roots.size() >= kMaxTableEntries) {
    absl::erase_if(roots, [](const auto& root) { return root.second.waiting.empty(); });
  }
  return roots[host];
}

void RegistryShared::RememberAuthorization(const std::string& auth_scope,
                                           Authorization authorization) {
  BoundTable(authorizations);
  authorizations[auth_scope] = std::move(authorization);
}

void RegistryShared::RecordRetry(const std::string& registry, const absl::Status& why, int attempt,
                                 int most) {
  std::string_view cause = ToStd(why.message());
  cause = cause.substr(0, cause.find(';'));  // the remedy is for the one who gives up
  absl::MutexLock lock(&mu_);
  BoundTable(troubles_);
  troubles_[registry] = StrCat(cause, ", attempt ", attempt, " of ", most);
  in_trouble_.store(troubles_.size(), std::memory_order_relaxed);
}

void RegistryShared::RecordAnswer(const std::string& registry) {
  if (in_trouble_.load(std::memory_order_relaxed) == 0) return;
  absl::MutexLock lock(&mu_);
  troubles_.erase(registry);
  in_trouble_.store(troubles_.size(), std::memory_order_relaxed);
}

std::string RegistryShared::TroubleOf(const std::string& registry) const {
  absl::MutexLock lock(&mu_);
  const auto it = troubles_.find(registry);
  return it == troubles_.end() ? "" : it->second;
}

bool RegistryShared::Post(absl::AnyInvocable<void()> task) {
  absl::MutexLock lock(&mu_);
  if (closed_) return false;
  http.After({}, std::move(task));
  return true;
}

void RegistryShared::Close() {
  absl::MutexLock lock(&mu_);
  closed_ = true;
}

// Looked up only when the mirror asks for it: most do not. Looking it up may run helpers, which the
// first request must not wait for.
std::shared_ptr<EndpointIdentity> RegistryShared::MirrorIdentity(const HostEndpoint& mirror) {
  absl::MutexLock lock(&mu_);
  BoundTable(mirror_identities_);
  std::shared_ptr<EndpointIdentity>& identity =
      mirror_identities_[StrCat(mirror.host, "/", mirror.repository)];
  if (identity == nullptr) {
    CredentialRefresh refresh;
    if (options.mirror_credential) {
      Reference reference;
      reference.host = mirror.host;
      reference.repository = mirror.repository;
      refresh = [find = options.mirror_credential, reference](const Credential& refused) {
        return find(reference, refused);
      };
    }
    identity = std::make_shared<EndpointIdentity>(Credential(), std::move(refresh));
  }
  return identity;
}

void RegistryShared::LogWarnings(const std::string& host, const HttpResponse& response) {
  const auto [begin, end] = response.headers.equal_range("warning");
  for (auto it = begin; it != end; ++it) {
    BoundTable(logged_warnings);
    const std::string text = Printable(it->second, 400);
    if (logged_warnings.insert(text).second) {
      LogInfo("registry_warning host=", host, " text=", text);
    }
  }
}

CancelToken::Registration OnCancelAt(HttpClient& http, const CancelToken& cancel,
                                     std::function<void()> task) {
  return cancel.OnCancel([&http, task = std::move(task)] { http.After({}, task); });
}

std::optional<RegistryShared::Authorization> AuthorizationOf(const HttpResponse& refusal) {
  using Kind = RegistryShared::Authorization::Kind;
  if (const auto bearer = UsableChallenge(refusal, "bearer")) {
    return RegistryShared::Authorization{Kind::kBearer, bearer->Param("realm"),
                                         bearer->Param("service"), bearer->Param("scope")};
  }
  if (UsableChallenge(refusal, "basic")) {
    return RegistryShared::Authorization{Kind::kBasic, "", "", ""};
  }
  return std::nullopt;
}

std::string ScopeToAsk(const std::string& challenged, const std::string& least,
                       const std::string& repository) {
  // One token for the whole push: a challenge to a read does not include write access.
  if (!least.empty()) {
    const bool custom = !challenged.empty() && !challenged.starts_with("repository:");
    return custom ? StrCat(least, " ", challenged) : least;
  }
  return challenged.empty() ? StrCat("repository:", repository, ":pull") : challenged;
}

std::string RepositoryOfApi(const Url& url) {
  std::string_view path = url.PathAndQuery();
  path = path.substr(0, path.find('?'));
  if (!ConsumePrefix(&path, "/v2/")) return "";
  for (std::string_view kind : {"/manifests/", "/blobs/", "/referrers/", "/tags/"}) {
    const size_t end = path.rfind(kind);
    if (end != std::string_view::npos && end > 0) return std::string(path.substr(0, end));
  }
  return "";
}

}  // namespace imagefs
