// SPDX-License-Identifier: Apache-2.0
#include "fetch/login_check.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "base/executor.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "fetch/registry_call.h"
#include "fetch/registry_route.h"
#include "fetch/registry_shared.h"

namespace imagefs {
namespace {

// What a request needs, for a single one.
class Client {
 public:
  Client(const SourceFactory::Options& options, std::unique_ptr<HttpClient> http)
      : answers_(ThreadRole::kAnswers, 1),
        shared_(std::make_shared<RegistryShared>(*http, answers_, options)),
        http_(std::move(http)) {}
  ~Client() {
    shared_->Close();
    shared_->refreshes.Close();
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const std::shared_ptr<RegistryShared>& shared() const { return shared_; }

 private:
  Executor answers_;  // destroyed last: work that ends before still needs it
  const std::shared_ptr<RegistryShared> shared_;
  const std::unique_ptr<HttpClient> http_;  // destroyed first, ending all work
};

// To log in is what the user is doing.
absl::Status WithOtherRemedy(const absl::Status& failure, const std::string& host) {
  std::string message(failure.message());
  const size_t remedy = message.find(StrCat("; ", LoginRemedy(host)));
  if (remedy != std::string::npos) message.resize(remedy);
  const bool rejected = IsCredentialFailure(failure) && remedy != std::string::npos;
  return absl::Status(failure.code(),
                      StrCat(message, rejected ? "; check user name and password" : ""));
}

}  // namespace

absl::StatusOr<bool> CheckLogin(const SourceFactory::Options& options, const Reference& reference,
                                const SourceFactory::Access& access, const CancelToken& cancel) {
  IMAGEFS_ASSIGN_OR_RETURN(std::unique_ptr<HttpClient> http, HttpClient::Create(options.http));
  Client client(options, std::move(http));
  IMAGEFS_ASSIGN_OR_RETURN(const std::shared_ptr<RegistryRoute> route,
                           RegistryRoute::Create(client.shared(), reference, access));
  IMAGEFS_ASSIGN_OR_RETURN(std::shared_ptr<const RegistryEndpoint> endpoint,
                           route->RegistryItself());
  RegistryCall::Spec spec;
  spec.what = StrCat(reference.host, "/v2/");
  spec.root = true;
  absl::Notification answered;
  absl::StatusOr<bool> result = false;
  RegistryCall::Run(client.shared(), endpoint, std::move(spec), cancel,
                    [&, shared = client.shared()](absl::StatusOr<HttpResponse> answer) {
                      if (answer.ok()) {
                        // On the HTTP client's thread, whose table this is.
                        const auto asked = shared->authorizations.find(endpoint->auth_scope);
                        result = asked != shared->authorizations.end() &&
                                 asked->second.kind != RegistryShared::Authorization::Kind::kNone;
                      } else {
                        result = WithOtherRemedy(answer.status(), reference.host);
                      }
                      answered.Notify();
                    });
  answered.WaitForNotification();
  return result;
}

}  // namespace imagefs
