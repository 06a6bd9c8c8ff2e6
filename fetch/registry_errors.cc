// SPDX-License-Identifier: Apache-2.0
#include "fetch/registry_errors.h"

#include "base/failure.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"

namespace imagefs {
namespace {

// Returns the registry's own error text, to end a message with.
std::string Detail(const std::string& body) {
  const absl::StatusOr<Json> json = Json::Parse(body);
  if (!json.ok()) return "";
  const Json error = (*json)["errors"].at(0);
  std::string text = error.StringOr("message");
  if (text.empty()) text = error.StringOr("code");
  return text.empty() ? "" : StrCat(" (\"", Printable(text), "\")");
}

// Explains why no credentials were sent although there may be some.
std::string Trouble(const RegistryEndpoint& endpoint) {
  if (endpoint.credential_trouble.empty() || !endpoint.identity->credential().empty()) return "";
  return StrCat(", and no credentials were sent (", endpoint.credential_trouble, ")");
}

absl::Status PushRefusedError(const RegistryEndpoint& endpoint, const ErrorAnswer& answer) {
  const bool anonymous = endpoint.identity->credential().empty();
  const bool wrong = answer.status == 401 && answer.credential_sent;
  const std::string who = anonymous ? "anonymous users" : wrong ? "these credentials" : "you";
  return absl::Status(
      anonymous || wrong ? absl::StatusCode::kUnauthenticated : absl::StatusCode::kPermissionDenied,
      StrCat(answer.what, ": this registry does not let ", who, " push to ",
             endpoint.RepositoryName(), " (HTTP status ", answer.status, ")", Detail(answer.body),
             Trouble(endpoint), "; ", LoginRemedy(endpoint.host), ", or use --to REPOSITORY"));
}

absl::Status OtherRefusedError(const RegistryEndpoint& endpoint, const ErrorAnswer& answer) {
  return absl::UnauthenticatedError(StrCat(
      answer.what, ": ", endpoint.host, " redirects to the registry ", answer.asked,
      ", which does not give it to anonymous users", Detail(answer.body),
      "; credentials are sent to the registry that a reference names, so name ", answer.asked));
}

// The place as the subject of a sentence.
std::string Subject(const RegistryEndpoint& endpoint, const ErrorAnswer& answer) {
  switch (answer.place) {
    case Place::kRegistry:
      return endpoint.host;
    case Place::kOtherRegistry:
      return StrCat("the registry ", answer.asked, ", to which ", endpoint.host, " redirects,");
    case Place::kStorage:
      return StrCat("the storage host ", answer.asked, ", to which ", endpoint.host, " redirects,");
    case Place::kImageUrl:
      return StrCat(answer.asked, ", where the image says that it is,");
  }
  return answer.asked;
}

absl::Status PushStatusError(const RegistryEndpoint& endpoint, const ErrorAnswer& answer) {
  const std::string detail = Detail(answer.body);
  if (answer.status == 413) {
    return absl::FailedPreconditionError(
        StrCat(answer.what, ": ", Subject(endpoint, answer), " accepts nothing so large", detail,
               "; raise the limit of the registry or of the proxy before it, or use "
               "--to REPOSITORY"));
  }
  const std::string text =
      StrCat(answer.what, ": this registry does not let you push to ", endpoint.RepositoryName(),
             " (HTTP status ", answer.status, ")", detail, "; use --to REPOSITORY");
  return answer.status == 404 ? absl::NotFoundError(text) : absl::FailedPreconditionError(text);
}

absl::Status NotFound(const RegistryEndpoint& endpoint, const ErrorAnswer& answer) {
  const std::string detail = Detail(answer.body);
  if (answer.place == Place::kImageUrl) {
    return absl::NotFoundError(StrCat(answer.what, " is neither at ", endpoint.host, " nor at ",
                                      answer.asked, ", where the image says that it is", detail,
                                      "; have the image pushed with its foreign layers"));
  }
  if (answer.place == Place::kStorage) {
    return absl::NotFoundError(StrCat(answer.what, ": ", Subject(endpoint, answer),
                                      " does not have it (HTTP status 404)", detail,
                                      "; try again later, or have the image pushed again"));
  }
  const std::string where = answer.place == Place::kRegistry ? endpoint.host : answer.asked;
  const bool hidden =
      answer.place == Place::kRegistry && answer.hides && endpoint.identity->credential().empty();
  return absl::NotFoundError(StrCat(answer.what, " does not exist at ", where,
                                    hidden ? " for anonymous users" : "", detail, Trouble(endpoint),
                                    "; check the name and the tag",
                                    hidden ? StrCat(", or ", LoginRemedy(endpoint.host)) : ""));
}

}  // namespace

bool PassesByItself(int http_status) {
  return http_status == 408 || http_status == 429 || http_status >= 500;
}

absl::Status TokenRefusedError(const RegistryEndpoint& endpoint, const std::string& what,
                               const absl::Status& said) {
  return absl::Status(said.code(), StrCat(what, ": ", ToStd(said.message()), Trouble(endpoint)));
}

absl::Status RefusedError(const RegistryEndpoint& endpoint, const ErrorAnswer& answer) {
  if (answer.place == Place::kOtherRegistry) return OtherRefusedError(endpoint, answer);
  if (endpoint.push) return PushRefusedError(endpoint, answer);
  const std::string detail = Detail(answer.body);
  const std::string login = LoginRemedy(endpoint.host);
  if (endpoint.identity->credential().empty()) {
    return absl::UnauthenticatedError(
        StrCat(answer.what, ": ", endpoint.host, " does not give it to anonymous users", detail,
               Trouble(endpoint), "; ", login, ", or check the name"));
  }
  if (answer.status == 403 || answer.token_sent) {
    return absl::PermissionDeniedError(
        StrCat(answer.what, ": ", endpoint.host, " does not give it to this user", detail,
               "; ask for access, ", login, " as another user, or check the name"));
  }
  return absl::UnauthenticatedError(StrCat(answer.what, ": ", endpoint.host,
                                           " refuses these credentials", detail, "; ", login,
                                           " again, or check the name"));
}

absl::Status StatusError(const RegistryEndpoint& endpoint, const ErrorAnswer& answer) {
  const int status = answer.status;
  const std::string detail = Detail(answer.body);
  const bool missing = status == 404 || status == 405;
  if (endpoint.push && (status == 413 || (missing && answer.place == Place::kRegistry))) {
    return PushStatusError(endpoint, answer);
  }
  if (status == 404) return NotFound(endpoint, answer);
  const std::string subject = Subject(endpoint, answer);
  if (status == 416) {
    return absl::DataLossError(StrCat(answer.what, ": ", subject,
                                      " has fewer bytes than the manifest says; have the image "
                                      "pushed again"));
  }
  if (status == 429) {
    return WithKind(
        absl::ResourceExhaustedError(StrCat(
            answer.asked, " answered that there were too many requests", detail, Trouble(endpoint),
            "; wait",
            answer.place == Place::kRegistry ? StrCat(", or ", LoginRemedy(endpoint.host)) : "")),
        FailureKind::kNetwork);
  }
  if (answer.place == Place::kStorage && (status == 400 || status == 401 || status == 403)) {
    return absl::FailedPreconditionError(
        StrCat(answer.what, ": ", subject, " refuses the link (HTTP status ", status, ")", detail,
               "; check this machine's clock and the proxy settings"));
  }
  const std::string text =
      StrCat(subject, " answered with HTTP status ", status, detail,
             answer.proxy.empty() ? "; check the registry"
                                  : StrCat(" through ", answer.proxy, "; check both"));
  if (PassesByItself(status)) return absl::UnavailableError(text);
  return absl::FailedPreconditionError(StrCat(answer.what, ": ", text));
}

}  // namespace imagefs
