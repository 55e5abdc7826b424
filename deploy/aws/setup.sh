#!/usr/bin/env bash
# Makes, once an account and region, what cluster.yaml names: two IAM profiles with the rights of one bucket, a security
# group that lets SSH in from one address, and a repository for the image. Run again, it changes nothing that is there.
#   deploy/aws/setup.sh BUCKET REGION YOUR_ADDRESS        # as in: setup.sh my-bucket us-west-2 203.0.113.7
set -euo pipefail

bucket=${1:?BUCKET}
region=${2:?REGION}
address=${3:?YOUR_ADDRESS, as of https://checkip.amazonaws.com}
here=$(cd "$(dirname "$0")" && pwd)
account=$(aws sts get-caller-identity --query Account --output text)
export AWS_REGION=$region

policy() { # NAME: its document, for this bucket, account and region
    sed -e "s/BUCKET/$bucket/g" -e "s/ACCOUNT/$account/g" -e "s/REGION/$region/g" "$here/$1.json"
}

profile() { # NAME POLICY...: a role that EC2 may take, as an instance profile of the same name
    local name=$1
    shift
    aws iam get-role --role-name "$name" >/dev/null 2>&1 || aws iam create-role --role-name "$name" \
        --assume-role-policy-document "$(policy trust)" >/dev/null
    for each in "$@"; do
        aws iam put-role-policy --role-name "$name" --policy-name "$each" --policy-document "$(policy "$each")"
    done
    if ! aws iam get-instance-profile --instance-profile-name "$name" >/dev/null 2>&1; then
        aws iam create-instance-profile --instance-profile-name "$name" >/dev/null
        aws iam add-role-to-instance-profile --instance-profile-name "$name" --role-name "$name"
    fi
}

profile emi-ray-node node
profile emi-ray-head node head

vpc=$(aws ec2 describe-vpcs --filters Name=is-default,Values=true --query 'Vpcs[0].VpcId' --output text)
find_group() {
    aws ec2 describe-security-groups --filters Name=group-name,Values=emi-ray "Name=vpc-id,Values=$vpc" \
        --query 'SecurityGroups[0].GroupId' --output text
}
group=$(find_group)
if [ "$group" = None ]; then
    aws ec2 create-security-group --group-name emi-ray --vpc-id "$vpc" --description "emi_ray nodes" >/dev/null
    group=$(find_group)
    aws ec2 authorize-security-group-ingress --group-id "$group" --protocol tcp --port 22 --cidr "$address/32" >/dev/null
    aws ec2 authorize-security-group-ingress --group-id "$group" --protocol=-1 --source-group "$group" >/dev/null
fi

aws ecr describe-repositories --repository-names emi-ray >/dev/null 2>&1 \
    || aws ecr create-repository --repository-name emi-ray >/dev/null

# What a killed process leaves of an upload in parts is removed after a day.
aws s3api put-bucket-lifecycle-configuration --bucket "$bucket" --lifecycle-configuration '{"Rules": [{"ID":
    "emi-ray-uploads", "Status": "Enabled", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload":
    {"DaysAfterInitiation": 1}}]}'

echo "In cluster.yaml: ACCOUNT is $account, SECURITY_GROUP is $group, the region is $region."
echo "If your address changes: aws ec2 authorize-security-group-ingress --group-id $group --protocol tcp --port 22 --cidr NEW/32"
