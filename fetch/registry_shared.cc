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
