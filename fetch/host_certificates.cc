// SPDX-License-Identifier: Apache-2.0
#include "fetch/host_certificates.h"

#include <algorithm>
#include <cstdint>

#include "base/secret.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxCertificateBytes = 1 << 20;
constexpr size_t kMaxCertificates = 64;

constexpr std::string_view kBegin = "-----BEGIN CERTIFICATE-----";
constexpr std::string_view kEnd = "-----END CERTIFICATE-----";

bool HasCertificate(std::string_view pem) {
  const size_t begin = pem.find(kBegin);
  return begin != pem.npos && pem.find(kEnd, begin) != pem.npos;
}

bool HasKey(std::string_view pem) { return pem.find("PRIVATE KEY-----") != pem.npos; }

void AppendPem(std::string_view pem, std::string& out) {
  if (!out.empty() && !out.ends_with('\n')) out += '\n';
  out += pem;
}

// A pair of files; `key` "" = in the certificate's file.
absl::StatusOr<TlsSettings::Client> ReadClient(const std::string& certificate,
                                               const std::string& key, WatchedFiles& files) {
  absl::StatusOr<std::string> pem = files.Read(certificate, kMaxCertificateBytes);
  if (!pem.ok()) return Unreadable(certificate, pem.status());
  const WipeAtEnd wipe_pem(*pem);
  if (!HasCertificate(*pem)) {
    return absl::InvalidArgumentError(StrCat(certificate, " has no certificate in PEM format"));
  }
  TlsSettings::Client out;
  if (key.empty()) {
    if (!HasKey(*pem)) return absl::InvalidArgumentError(StrCat(certificate, " has no key"));
    // The key is in a Secret only.
    out.key_pem = *pem;
    for (size_t at = 0; (at = pem->find(kBegin, at)) != pem->npos;) {
      const size_t end = pem->find(kEnd, at);
      if (end == pem->npos) break;
      StrAppend(&out.certificate_pem, std::string_view(*pem).substr(at, end + kEnd.size() - at),
                "\n");
      at = end;
    }
    WipeStack();
    return out;
  }
  out.certificate_pem = *pem;
  absl::StatusOr<std::string> secret = files.Read(key, kMaxCertificateBytes);
  if (!secret.ok()) return Unreadable(key, secret.status());
  const WipeAtEnd wipe_secret(*secret);
  if (!HasKey(*secret)) return absl::InvalidArgumentError(StrCat(key, " has no key in PEM format"));
  out.key_pem = *secret;
  WipeStack();
  return out;
}

std::string InDirectory(const std::string& directory, const std::string& path) {
  return path.starts_with('/') ? path : StrCat(directory, "/", path);
}

bool Contains(const std::vector<std::string>& sorted, const std::string& name) {
  return std::binary_search(sorted.begin(), sorted.end(), name);
}

// "a.cert" -> "a".
std::string StemOf(const std::string& name) { return name.substr(0, name.rfind('.')); }

absl::Status AddFile(const std::string& directory, const std::vector<std::string>& names,
                     const std::string& name, WatchedFiles& files, TlsSettings& out) {
  const std::string path = StrCat(directory, "/", name);
  if (name.ends_with(".crt")) {
    const absl::StatusOr<std::string> pem = files.Read(path, kMaxCertificateBytes);
    if (absl::IsNotFound(pem.status())) return absl::OkStatus();  // a link to nothing
    if (!pem.ok()) return Unreadable(path, pem.status());
    if (HasCertificate(*pem)) AppendPem(*pem, out.ca_pem);
    return absl::OkStatus();
  }
  const std::string stem = StemOf(name);
  if (name.ends_with(".key")) {
    if (Contains(names, stem + ".cert")) return absl::OkStatus();
    return absl::FailedPreconditionError(
        StrCat(path, ": its certificate ", stem, ".cert is missing"));
  }
  const std::string key = stem + ".key";
  const bool separate = Contains(names, key);
  absl::StatusOr<TlsSettings::Client> client =
      ReadClient(path, separate ? StrCat(directory, "/", key) : "", files);
  if (!client.ok() && !separate && absl::IsInvalidArgument(client.status())) {
    return absl::FailedPreconditionError(StrCat(
        path, ": its key ", key, " is missing (certificates of CAs have names that end in .crt)"));
  }
  IMAGEFS_RETURN_IF_ERROR(client.status());
  out.clients.push_back(*std::move(client));
  return absl::OkStatus();
}

}  // namespace

absl::Status Unreadable(const std::string& path, const absl::Status& why) {
  const std::string_view message = ToStd(why.message());
  return absl::FailedPreconditionError(message.starts_with(path) ? std::string(message)
                                                                 : StrCat(path, ": ", message));
}

bool IsCertificateFile(std::string_view name) {
  return name.ends_with(".crt") || name.ends_with(".cert") || name.ends_with(".key");
}

absl::Status ReadNamedCertificates(const std::vector<std::string>& ca,
                                   const std::vector<std::pair<std::string, std::string>>& client,
                                   const std::string& directory, const std::string& origin,
                                   WatchedFiles& files, TlsSettings& out) {
  for (const std::string& name : ca) {
    const std::string path = InDirectory(directory, name);
    const absl::StatusOr<std::string> pem = files.Read(path, kMaxCertificateBytes);
    if (!pem.ok()) return Annotate(Unreadable(path, pem.status()), origin);
    if (!HasCertificate(*pem)) {
      return absl::InvalidArgumentError(
          StrCat(origin, ": ", path, " has no certificate in PEM format"));
    }
    AppendPem(*pem, out.ca_pem);
  }
  for (const auto& [certificate, key] : client) {
    absl::StatusOr<TlsSettings::Client> read = ReadClient(
        InDirectory(directory, certificate), key.empty() ? "" : InDirectory(directory, key), files);
    if (!read.ok()) return Annotate(read.status(), origin);
    out.clients.push_back(*std::move(read));
  }
  return absl::OkStatus();
}

absl::Status ReadCertificateDirectory(const std::string& directory, WatchedFiles& files,
                                      TlsSettings& out) {
  absl::StatusOr<std::vector<std::string>> names = files.List(directory);
  if (!names.ok()) return Unreadable(directory, names.status());
  std::erase_if(*names, [&](const std::string& name) {
    return !IsCertificateFile(name) || files.IsDirectory(StrCat(directory, "/", name));
  });
  if (names->size() > kMaxCertificates) {
    return absl::FailedPreconditionError(
        StrCat(directory, " has more than ", kMaxCertificates, " certificates and keys"));
  }
  for (const std::string& name : *names) {
    IMAGEFS_RETURN_IF_ERROR(AddFile(directory, *names, name, files, out));
  }
  return absl::OkStatus();
}

}  // namespace imagefs
